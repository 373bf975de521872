"""The scenarios of the notebooks, by name: a few of our own, and a suite that covers those of the literature.

All values are our choice: the paper's own failure parameters are not known to us.
"""

from fedauto_core.errors import require_known

from .base import Scenario

SCENARIOS = {
    "none": "no failure",
    "transient": "Bernoulli, coupled to the labels",
    "bursty": "Gilbert-Elliott bursts",
    "long": "long outages",
    "blind": "half of the uploads, times long outages",  # whatever the labels, for a clean factorial
    "mixed": "Bernoulli, coupled to the labels, times long outages",
    "blackout": "after a quarter of the run nobody who holds class 0 is heard again",
}
"""A few of our own."""

SUITE = {
    "F0": "no failure",
    "F1": "Bernoulli, half of the uploads",
    "F2": "Bernoulli, coupled to the labels",
    "F3": "Gilbert-Elliott bursts",
    "F4": "cyclic availability",
    "F4b": "turns of groups of classes",
    "F5": "rates on a sine, coupled to the labels",
    "F5b": "the same on a staircase",
    "F5c": "the same on a sine, cut to zero when low",
    "F6": "wired, Wi-Fi, LTE and NR: fading",
    "F7": "the same with long outages",
    "F8": "blackout of a class for good, else 4 of 5",
    "F8b": "blackout for half of the run, else 4 of 5",
    "F9": "access points shared by like labels",
    "F10": "adversary, half of the clients",
    "F11": "recorded sessions",
}
"""What the literature's failures are called here: F0 to F11; letters are variants."""

PAYLOAD_BITS = 9.4e6  # LoRA factors of rank 8 on q and v of ViT-B
WINDOW_S = (
    0.6  # so that the median of 15 radio clients fails about once in 15 rounds, and the worst tenth nearly always
)


def scenario(name: str, rounds: int = 200, payload_bits: float = PAYLOAD_BITS, window_s: float = WINDOW_S) -> Scenario:
    """The scenario called `name`, one of `SCENARIOS` or of `SUITE`, for a run of `rounds`; InputError lists those that
    exist.

    All durations are shares of the run, those of timetables and the means of random ones: stated for 200 rounds, they
    grow and shrink with `rounds`, but no burst or outage gets shorter than two rounds in the mean (the time between
    outages is lengthened with them, so that the share that is lost stays), no turn shorter than one, F5's period never
    below four. payload_bits, window_s: of F6 and F7.
    """
    require_known("scenario", name, [*SCENARIOS, *SUITE])

    def lasting(of_200: int, least: int = 1) -> int:
        return max(round(of_200 * rounds / 200), least)

    def spells(on: float, off: float) -> tuple[tuple[str, float], ...]:
        scale = max(rounds / 200, 2 / off)
        return (("mean_on", on * scale), ("mean_off", off * scale))

    coupled = (("q_min", 0.1), ("q_max", 0.9))
    radio = ("radio", (("payload_bits", payload_bits), ("window_s", window_s)))
    outages = spells(40.0, 20.0)
    blackout = (("label", 0), ("probability", 0.8))
    modulated = (*coupled, ("period", lasting(20, least=4)))  # a sine of fewer rounds is none
    processes = {
        "none": ("none", ()),
        "transient": ("label_coupled", coupled),
        "bursty": ("gilbert_elliott", (("q", 0.5), ("burst", float(lasting(10, least=2))))),
        "long": ("long_outage", outages),
        "blind": ("mixed", (("probability", 0.5), *outages)),
        "mixed": ("mixed", (*coupled, *outages)),
        "blackout": ("class_blackout", (*blackout, ("start", rounds // 4), ("length", rounds))),
        "F0": ("none", ()),
        "F1": ("bernoulli", (("probability", 0.5),)),
        "F2": ("label_coupled", coupled),
        "F3": ("gilbert_elliott", (("q", 0.7), ("burst", float(lasting(20, least=2))))),
        "F4": ("cyclic", (("probability", 0.5), ("period", lasting(100)))),
        "F4b": ("block_cyclic", (("groups", 5), ("turn", lasting(10)))),
        "F5": ("modulated", (("shape", "sine"), *modulated)),
        "F5b": ("modulated", (("shape", "staircase"), *modulated)),
        "F5c": ("modulated", (("shape", "interleaved_sine"), *modulated)),
        "F6": radio,
        "F7": ("product", (("parts", (Scenario("radio", *radio), Scenario("outages", "long_outage", outages))),)),
        "F8": ("class_blackout", (*blackout, ("start", rounds // 10), ("length", rounds))),
        "F8b": ("class_blackout", (*blackout, ("start", rounds // 10), ("length", lasting(100)))),
        # The outages of F7, one for all clients of an access point.
        "F9": ("access_points", (("groups", 5), *outages, ("aligned", True))),
        "F10": ("adversary", (("budget", 0.5),)),
        "F11": ("sessions", (("round_s", 600.0 * 200 / rounds),)),
    }
    return Scenario(name, *processes[name])

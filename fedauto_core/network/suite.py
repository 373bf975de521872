"""The scenarios of the notebooks, by name: a few of our own, and a suite that covers those of the literature.

All values are our choice: the paper's own failure parameters are not known to us.
"""

from fedauto_core.errors import require_known

from .base import Scenario

SCENARIOS = {
    found.name: found
    for found in (
        Scenario("none", "none"),
        Scenario("transient", "label_coupled", (("q_min", 0.1), ("q_max", 0.9))),
        Scenario("bursty", "gilbert_elliott", (("q", 0.5), ("burst", 10.0))),
        Scenario("long", "long_outage", (("mean_on", 40.0), ("mean_off", 20.0))),
        # The same failures whatever the labels, for a clean factorial: half of the uploads, times long outages.
        Scenario("blind", "mixed", (("probability", 0.5), ("mean_on", 40.0), ("mean_off", 20.0))),
        Scenario("mixed", "mixed", (("q_min", 0.1), ("q_max", 0.9), ("mean_on", 40.0), ("mean_off", 20.0))),
        # From round 10 on nobody who holds class 0 is heard again.
        Scenario("blackout", "class_blackout", (("label", 0), ("start", 10), ("length", 10**6), ("probability", 0.8))),
    )
}

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
    """The scenario called `name`, one of `SCENARIOS` or of `SUITE`; InputError lists those that exist.

    The suite's timetables (periods, turns, blackouts, the pace of a recording) are stated for 200 rounds; they grow and
    shrink with `rounds`, so that a short run sees the same share of each. Durations of random failures are in rounds,
    whatever `rounds` is, so is F5's period of 20, and so is all of `SCENARIOS`. payload_bits, window_s: of F6 and F7.
    """
    require_known("scenario", name, [*SCENARIOS, *SUITE])
    if name in SCENARIOS:
        return SCENARIOS[name]

    def lasting(of_200: int) -> int:
        return max(round(of_200 * rounds / 200), 1)

    coupled = (("q_min", 0.1), ("q_max", 0.9))
    radio = ("radio", (("payload_bits", payload_bits), ("window_s", window_s)))
    outages = ("long_outage", (("mean_on", 40.0), ("mean_off", 20.0)))
    blackout = (("label", 0), ("start", rounds // 10), ("probability", 0.8))
    processes = {
        "F0": ("none", ()),
        "F1": ("bernoulli", (("probability", 0.5),)),
        "F2": ("label_coupled", coupled),
        "F3": ("gilbert_elliott", (("q", 0.7), ("burst", 20.0))),
        "F4": ("cyclic", (("probability", 0.5), ("period", lasting(100)))),
        "F4b": ("block_cyclic", (("groups", 5), ("turn", lasting(10)))),
        "F5": ("modulated", (("shape", "sine"), *coupled)),
        "F5b": ("modulated", (("shape", "staircase"), *coupled)),
        "F5c": ("modulated", (("shape", "interleaved_sine"), *coupled)),
        "F6": radio,
        "F7": ("product", (("parts", (Scenario("radio", *radio), Scenario("outages", *outages))),)),
        "F8": ("class_blackout", (*blackout, ("length", rounds))),
        "F8b": ("class_blackout", (*blackout, ("length", lasting(100)))),
        "F9": ("access_points", (("groups", 5), ("mean_on", 190.0), ("mean_off", 10.0), ("aligned", True))),
        "F10": ("adversary", (("budget", 0.5),)),
        "F11": ("sessions", (("round_s", 600.0 * 200 / rounds),)),
    }
    return Scenario(name, *processes[name])

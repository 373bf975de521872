// FedAuto's round with four clients: the same quadratic programme as fedauto_core/methods/weights.py, for a few participants.
"use strict";

const SERVER = [4, 4, 4];
const SKEWED = [[40, 0, 0], [30, 10, 0], [0, 40, 0], [0, 10, 30]]; // samples of each client per class at skew 1
const STEPS = 5, GAMMA = 0.1, SMOOTHNESS = 1, KAPPA2 = 1, SIGMA2 = 1, GRADIENT2 = 1;
const sum = (values) => values.reduce((total, value) => total + value, 0);
const dot = (a, b) => sum(a.map((value, i) => value * b[i]));
const mix = (weights, rows) => rows[0].map((_, c) => dot(weights, rows.map((row) => row[c])));

// Samples per class of the server and each client: from the clients' common mixture (skew 0) to SKEWED (1), whole numbers.
function samples(skew) {
  const total = mix(SKEWED.map(() => 1), SKEWED), all = sum(total);
  return [SERVER, ...SKEWED.map((row) => row.map((n, c) => Math.floor((1 - skew) * sum(row) * total[c] / all + skew * n + 0.5)))];
}

// x with matrix x = (1, ..., 1), by Gauss's elimination.
function solveOnes(matrix) {
  const rows = matrix.map((row) => [...row, 1]), size = rows.length;
  for (let k = 0; k < size; k++) {
    let pivot = k;
    for (let i = k + 1; i < size; i++) if (Math.abs(rows[i][k]) > Math.abs(rows[pivot][k])) pivot = i;
    [rows[k], rows[pivot]] = [rows[pivot], rows[k]];
    for (let i = k + 1; i < size; i++) {
      const factor = rows[i][k] / rows[k][k];
      for (let j = k; j <= size; j++) rows[i][j] -= factor * rows[k][j];
    }
  }
  const x = Array(size).fill(0);
  for (let k = size - 1; k >= 0; k--) x[k] = (rows[k][size] - dot(rows[k].slice(0, size), x)) / rows[k][k];
  return x;
}

// The exact minimiser of beta' G beta on the simplex: every set of positive weights has its optimum in closed form, and the
// best one without a negative weight is the solution. That many sets, 63 at most, are tried at once.
function weigh(alpha, counts, target, lambda) {
  const held = target.map((t, c) => c).filter((c) => target[c] > 0), all = sum(counts);
  const gram = alpha.map((a, i) => alpha.map((b, j) =>
    sum(held.map((c) => (a[c] - target[c]) * (b[c] - target[c]) / target[c])) + (i === j ? lambda * all / counts[i] : 0)));
  let best = null;
  for (let set = 1; set < 2 ** counts.length; set++) {
    const active = counts.map((_, j) => j).filter((j) => set & (1 << j));
    const x = solveOnes(active.map((i) => active.map((j) => gram[i][j]))), scale = sum(x);
    if (x.some((value) => value < 0) || (best && scale <= best.scale)) continue; // the objective is 1 / scale
    const beta = counts.map(() => 0);
    active.forEach((j, at) => { beta[j] = x[at] / scale; });
    best = { beta, scale };
  }
  return best.beta;
}

function terms(beta, alpha, target) {
  const mixture = mix(beta, alpha), beta2 = dot(beta, beta);
  const chi2 = sum(target.map((t, c) => t > 0 ? (mixture[c] - t) ** 2 / t : 0));
  const drift = 2 * GAMMA ** 2 * (STEPS - 1) * SIGMA2
    + 4 / 3 * GAMMA ** 2 * (STEPS - 1) * (2 * STEPS - 1) * sum(beta.map((value) => value * GRADIENT2));
  const bound = { bias: 2 * KAPPA2 * chi2, noise: 2 * SMOOTHNESS * GAMMA * SIGMA2 * beta2, drift: 2 * SMOOTHNESS ** 2 * drift };
  return { beta, mixture, chi2, beta2, ...bound, sum: bound.bias + bound.noise + bound.drift };
}

// All numbers of one round; arrived: the clients 1 to 4 that got through.
function explore(skew, lambda, arrived, compensate) {
  const everybody = samples(skew), share = (row) => row.map((n) => n / sum(row));
  const target = share(mix(everybody.map(() => 1), everybody));
  const rows = [everybody[0], ...arrived.map((j) => everybody[j])], names = ["server", ...arrived.map((j) => `client ${j}`)];
  const plain = terms(rows.map((row) => sum(row) / sum(rows.map(sum))), rows.map(share), target);
  const missing = target.map((t, c) => c).filter((c) => target[c] > 0 && arrived.every((j) => everybody[j][c] === 0));
  if (compensate && missing.length) {
    rows.push(SERVER.map((n, c) => missing.includes(c) ? n : 0));
    names.push("participant m");
  }
  const alpha = rows.map(share), fedauto = terms(weigh(alpha, rows.map(sum), target, lambda), alpha, target);
  return { samples: everybody, target, missing, names, plain, fedauto };
}

if (document.getElementById("skew")) {
  const by = (id) => document.getElementById(id);
  const element = (name, attributes, text = "") => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    return made;
  };
  // Groups of bars between 0 and the largest; series: [class, values]
  const draw = (svg, groups, series) => {
    const top = 20, bottom = 195, wide = 410 / groups.length, bar = wide * 0.8 / series.length;
    const largest = Math.max(0.05, ...series.flatMap(([, values]) => values));
    svg.replaceChildren(element("line", { x1: 5, x2: 415, y1: bottom, y2: bottom, class: "axis" }));
    groups.forEach((group, g) => {
      const left = 5 + wide * (g + 0.1);
      svg.append(element("text", { x: left + wide * 0.4, y: bottom + 18, "text-anchor": "middle" }, group));
      series.forEach(([look, values], s) => {
        const height = values[g] / largest * (bottom - top), x = left + s * bar;
        svg.append(element("rect", { x, y: bottom - height, width: bar * 0.9, height, class: `bar ${look}` }));
        svg.append(element("text", { x: x + bar * 0.45, y: bottom - height - 4, "text-anchor": "middle" }, values[g].toFixed(2)));
      });
    });
    svg.setAttribute("aria-label", groups.map((group, g) =>
      `${group}: ${series.map(([look, values]) => `${look || "FedAuto"} ${values[g].toFixed(2)}`).join(", ")}`).join("; "));
  };
  const line = (head, values) => {
    const row = document.createElement("tr"), first = document.createElement("th");
    first.scope = "row";
    first.textContent = head;
    row.append(first, ...values.map((value) => Object.assign(document.createElement("td"), { textContent: value })));
    return row;
  };
  const show = () => {
    const skew = Number(by("skew").value), lambda = 10 ** Number(by("lambda").value);
    const arrived = [...document.querySelectorAll("[name=arrived]:checked")].map((box) => Number(box.value));
    const { samples: held, target, missing, names, plain, fedauto } = explore(skew, lambda, arrived, by("compensate").checked);
    by("skew-value").textContent = skew.toFixed(2);
    by("lambda-value").textContent = lambda.toPrecision(3);
    draw(by("weights"), names, [["", fedauto.beta], ["plain", names.map((_, j) => plain.beta[j] ?? 0)]]);
    draw(by("mixture"), target.map((_, c) => `class ${c}`), [["", fedauto.mixture], ["plain", plain.mixture], ["target", target]]);
    const figures = ({ chi2, beta2, bias, noise, drift, sum }) => [chi2, beta2, bias, noise, drift, sum].map((v) => v.toFixed(4));
    by("numbers").replaceChildren(line("plain averaging", figures(plain)), line("FedAuto", figures(fedauto)));
    by("counts").replaceChildren(...held.map((row, j) => line(j ? `client ${j}` : "server", row)));
    const lacking = missing.length ? `No arrived client holds class ${missing.join(" or ")}. ` : "No class is missing. ";
    const change = plain.chi2 - fedauto.chi2;
    const nearer = Math.abs(change) < 5e-5 ? "no nearer to the target than" : change > 0 ? "nearer to the target than" : "further from the target than";
    const smaller = fedauto.sum < plain.sum ? "smaller" : "no smaller";
    by("said").textContent = `${lacking}FedAuto's mixture is ${nearer} that of plain averaging (chi-square ${fedauto.chi2.toFixed(3)} `
      + `against ${plain.chi2.toFixed(3)}), and the bound is ${smaller} (${fedauto.sum.toFixed(2)} against ${plain.sum.toFixed(2)}).`;
  };
  document.querySelector(".controls").addEventListener("input", show);
  document.querySelector(".controls").addEventListener("submit", (event) => event.preventDefault());
  show();
}
// sealed 4955de5f66c1fc0d19ef8523c552733fe8f2b9743c021eee4b1fc4538d3ff62a

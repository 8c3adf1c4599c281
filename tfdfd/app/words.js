// Words and formats that the pages of `tfdfd app` and `tfdfd web` share.
export const STATUS = {
  no_face: "no face found", decode_error: "cannot be read", unsupported: "unknown format", too_large: "too large",
  timeout: "took too long", not_found: "not found",
};
export const MEANING = {
  fake: "A face shows traces of manipulation. This is a reason to look closer, not proof.",
  real: "No trace of the manipulations that the model knows. This does not prove that the file is genuine.",
  inconclusive: "Too close to call, or no face is large and clear enough.",
};

export const bytes = (n) => n < 1e6 ? `${Math.ceil(n / 1e3)} kB` : n < 1e9 ? `${(n / 1e6).toFixed(1)} MB` : `${(n / 1e9).toFixed(1)} GB`;
// Three digits, but never 0 or 1, a certainty that no model has.
export const score = (p) => p >= 0.9995 ? "> 0.999" : p < 0.0005 ? "< 0.001" : p.toFixed(3);
export const count = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;

// A likelihood ratio of the JSON of detect, as a sentence.
export function likelihood({value, support, reason}) {
  if (value === null) return `Likelihood ratio: not known: ${reason}.`;
  const text = (number) => String(Number(number.toPrecision(3))), times = text(value >= 1 ? value : 1 / value);
  const of = value >= 1 ? "a fake as for a genuine face" : "a genuine face as for a fake";
  const more = times === "1" ? "" : `${times} times `;
  return `Likelihood ratio ${text(value)}: ${support}. A score like this is ${more}as probable for ${of} of the ` +
    "validation data. This is not the probability that the file is fake, which depends on everything else that is known about it.";
}

export const $ = (id) => document.getElementById(id);

export function add(parent, tag, properties = {}) {
  return parent.appendChild(Object.assign(document.createElement(tag), properties));
}

// Calls `take` with the files that a person chooses or drops anywhere on the page.
export function onFiles(take) {
  $("choose").addEventListener("click", () => $("pick").click());
  $("pick").addEventListener("change", () => { take([...$("pick").files]); $("pick").value = ""; });
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
      if (kind === "drop") take([...event.dataTransfer.files]);
    });
  }
}

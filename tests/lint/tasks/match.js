// What VS Code would find: the problem matchers of a task over lines on standard input, as
// its line decoder applies them (src/vs/workbench/contrib/tasks/common/problemMatcher.ts and
// problemCollectors.ts). `node match.js TASKS.JSON LABEL`; one problem a line, as JSON.
const { readFileSync } = require("node:fs");

const [tasks, label] = process.argv.slice(2);
const task = JSON.parse(readFileSync(tasks, "utf8")).tasks.find((task) => task.label === label);
const matchers = task.problemMatcher
  .filter((matcher) => typeof matcher === "object")
  .map((matcher) => [matcher.pattern].flat().map((pattern) => ({ ...pattern, regexp: new RegExp(pattern.regexp) })));

const PROPERTIES = ["file", "code", "line", "column"];

/** The first pattern that names something stands; messages are put one below the other. */
function fill(problem, pattern, found) {
  for (const property of PROPERTIES) {
    const value = pattern[property] && found[pattern[property]];
    if (problem[property] === undefined && value) problem[property] = value.trim();
  }
  const said = pattern.message && found[pattern.message]?.trim();
  if (said) problem.message = problem.message === undefined ? said : `${problem.message}\n${said}`;
  return problem;
}

/** A problem needs a file, a message, and a line unless it is of a file as a whole. */
const whole = (problem) =>
  problem.file && problem.message && (problem.kind === "file" || problem.line) ? problem : undefined;

function handle(patterns, lines) {
  let problem = { kind: patterns[0].kind };
  let before;
  for (const [index, pattern] of patterns.entries()) {
    const found = pattern.regexp.exec(lines[index]);
    if (!found) return undefined;
    before = problem;
    if (pattern.loop) problem = { ...problem };
    fill(problem, pattern, found);
  }
  const last = patterns.at(-1);
  return whole(problem) && { problem, goesOn: last.loop ? { last, before } : undefined };
}

const most = Math.max(...matchers.map((patterns) => patterns.length));
let [buffer, active] = [[], undefined];
for (const line of readFileSync(0, "utf8").split("\n")) {
  if (active) {
    const found = active.last.regexp.exec(line);
    if (found) {
      console.log(JSON.stringify(fill({ ...active.before }, active.last, found)));
      continue;
    }
    [buffer, active] = [[], undefined];
  }
  buffer = [...buffer, line].slice(-most);
  search: for (let start = 0; start < buffer.length; start++) {
    for (const patterns of matchers.filter((patterns) => patterns.length === buffer.length - start)) {
      const matched = handle(patterns, buffer.slice(start));
      if (matched) {
        console.log(JSON.stringify(matched.problem));
        [buffer, active] = [[], matched.goesOn];
        break search;
      }
    }
  }
}

// The dead letters that are open, newest first, and what somebody may decide about them.

import { announce } from "/static/announce.js";
import { discardAll, discardLetter, getDeadLetters, redriveAll, redriveLetter } from "/static/api.js";
import { asking } from "/static/while-busy.js";
import { letterRow } from "/static/dead-letter.js";
import { pagedList } from "/static/paged-list.js";
import { showProblem } from "/static/problem.js";
import { plural } from "/static/format.js";

const LOOKS_MS = [500, 1000, 2000, 4000, 8000, 16_000]; // after a redrive: what fails again is a new dead letter

const at = (id) => document.getElementById(id);

/** `onRedrive` hears when steps are to run again, `onLook` each time that jobs may have moved for it. */
export function deadLetters({ signal, titles, onRedrive, onLook }) {
  const section = at("dead-letters");
  const problem = at("letters-problem");
  let timer = null;

  const list = pagedList({
    rows: at("letters"),
    more: at("letters-more"),
    signal,
    read: async (query) => {
      const { dead_letters: items, next } = await getDeadLetters(query, signal);
      return { items, next };
    },
    rest,
    signature: (letter) => letter.state,
    create: (letter) => letterRow(letter, titles, {
      redrive: decide(async () => {
        await redriveLetter(letter.id, signal);
        redriven(1);
      }),
      discard: decide(async () => {
        await discardLetter(letter.id, signal);
        announce("1 dead letter discarded");
      }),
    }),
    onShown: (letters) => {
      const held = section.contains(document.activeElement);
      section.hidden = letters.length === 0;
      if (held && section.hidden) rest().focus({ preventScroll: true });
    },
    onError: (error) => showProblem(problem, error),
  });

  at("redrive-all").addEventListener("click", decide(async () => {
    const { dead_letters: count } = await redriveAll(signal);
    redriven(count);
  }));
  at("discard-all").addEventListener("click", decide(async () => {
    if (!await confirmed()) return;
    const { dead_letters: count } = await discardAll(signal);
    announce(`${plural(count, "dead letter")} discarded`);
  }));

  function decide(act) {
    return asking(async () => {
      problem.hidden = true;
      try {
        await act();
      } catch (error) {
        if (signal.aborted) return;
        showProblem(problem, error);
        problem.scrollIntoView({ block: "nearest" }); // it stands above the list
      }
      onLook();
      await list.refresh();
    });
  }

  function rest() {
    return at(section.hidden ? "history-heading" : "letters-heading");
  }

  function redriven(count) {
    announce(`${plural(count, "dead letter")} redriven`);
    onRedrive();
    lookAgain(LOOKS_MS);
  }

  function lookAgain([ms, ...later]) {
    clearTimeout(timer);
    if (ms) timer = setTimeout(() => { lookAgain(later); onLook(); list.refresh(); }, ms);
  }

  return list;
}

function confirmed() {
  const question = at("discard-question");
  question.returnValue = "";
  question.showModal();
  return new Promise((resolve) => {
    question.addEventListener("close", () => resolve(question.returnValue === "discard"), { once: true });
  });
}

"use strict";

// --- tables: a click on a column's title sorts by it, the best first, a second one the other way round; what is missing comes last ---
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value ?? cell.textContent.trim();
  };
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    // The whole title, of which the button is what the keyboard reaches.
    head.addEventListener("click", () => {
      const asText = head.classList.contains("text");
      const was = head.getAttribute("aria-sort");
      const ascending = was === "none" ? asText || head.dataset.better === "lower" : was === "descending";
      for (const other of heads) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const sign = ascending ? 1 : -1;
      const body = table.tBodies[0];
      const rows = [...body.rows].sort((one, two) => {
        const a = valueOf(one, column), b = valueOf(two, column);
        if (a === "" || b === "") return (a === "") - (b === "");
        return sign * (asText ? a.localeCompare(b) : Number(a) - Number(b));
      });
      body.append(...rows);
    });
  });
}

// --- pictures: all of a scene show the same part -------------------------------------------------------------------
const LARGEST = 16;

for (const viewer of document.querySelectorAll(".viewer")) {
  const views = [...viewer.querySelectorAll(".view")];
  const output = viewer.querySelector("output");
  const legend = viewer.querySelector(".legend");
  // The corner (x, y) of the part shown, as a fraction of the picture, and its magnification.
  const state = { x: 0, y: 0, scale: 1 };

  const show = () => {
    state.scale = Math.min(Math.max(state.scale, 1), LARGEST);
    const room = 1 - 1 / state.scale;
    state.x = Math.min(Math.max(state.x, 0), room);
    state.y = Math.min(Math.max(state.y, 0), room);
    const percent = (part) => (-100 * part * state.scale).toFixed(4) + "%";
    for (const view of views) {
      view.classList.toggle("zoomed", state.scale > 1);
      const picture = view.querySelector("img.picture");
      view.classList.toggle("pixels", (view.clientWidth * state.scale) / picture.naturalWidth > 3);
      for (const image of view.querySelectorAll("img")) {
        image.style.transform = `translate(${percent(state.x)}, ${percent(state.y)}) scale(${state.scale})`;
      }
    }
    output.textContent = state.scale.toFixed(1) + "×";
  };

  // Magnify around a point of the view (fractions of it), which stays where it is.
  const zoom = (factor, atX = 0.5, atY = 0.5) => {
    const before = state.scale;
    const after = Math.min(Math.max(before * factor, 1), LARGEST);
    state.x += atX / before - atX / after;
    state.y += atY / before - atY / after;
    state.scale = after;
    show();
    return after !== before;
  };

  const move = (dx, dy) => {
    state.x -= dx / state.scale;
    state.y -= dy / state.scale;
    show();
  };

  for (const view of views) {
    const pointers = new Map();
    const fraction = (x, y) => {
      const box = view.getBoundingClientRect();
      return [(x - box.left) / box.width, (y - box.top) / box.height];
    };
    const middleAndSpan = () => {
      const [a, b] = [...pointers.values()];
      return b ? [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2, Math.hypot(a[0] - b[0], a[1] - b[1])] : [a[0], a[1], 0];
    };

    view.addEventListener("wheel", (event) => {
      const pixels = event.deltaY * (event.deltaMode === 1 ? 33 : 1);
      // At its end the wheel scrolls the page again.
      if (zoom(Math.exp(-pixels / 300), ...fraction(event.clientX, event.clientY))) event.preventDefault();
    }, { passive: false });

    view.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      pointers.set(event.pointerId, [event.clientX, event.clientY]);
      view.setPointerCapture(event.pointerId);
    });
    view.addEventListener("pointermove", (event) => {
      if (!pointers.has(event.pointerId)) return;
      const [oldX, oldY, oldSpan] = middleAndSpan();
      pointers.set(event.pointerId, [event.clientX, event.clientY]);
      const [x, y, span] = middleAndSpan();
      const box = view.getBoundingClientRect();
      move((x - oldX) / box.width, (y - oldY) / box.height);
      if (oldSpan > 0) zoom(span / oldSpan, ...fraction(x, y));
    });
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) {
      view.addEventListener(name, (event) => pointers.delete(event.pointerId));
    }
    // With touch-action: pan-y a browser would take two fingers for itself.
    view.addEventListener("touchstart", (event) => {
      if (event.touches.length > 1) event.preventDefault();
    }, { passive: false });
    view.addEventListener("dblclick", (event) => zoom(2, ...fraction(event.clientX, event.clientY)));

    view.addEventListener("keydown", (event) => {
      const step = 0.1;
      const keys = {
        "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), "0": () => zoom(0),
        ArrowLeft: () => move(step, 0), ArrowRight: () => move(-step, 0),
        ArrowUp: () => move(0, step), ArrowDown: () => move(0, -step),
      };
      const arrow = event.key.startsWith("Arrow");
      if (!(event.key in keys) || event.ctrlKey || event.metaKey || (arrow && state.scale === 1)) return;
      keys[event.key]();
      event.preventDefault();
    });
  }

  const actions = { in: () => zoom(1.5), out: () => zoom(1 / 1.5), reset: () => zoom(0) };
  for (const button of viewer.querySelectorAll("button[data-do]")) {
    button.addEventListener("click", actions[button.dataset.do]);
  }
  viewer.querySelector("input[data-do=error]")?.addEventListener("change", (event) => {
    const wanted = event.target.checked;
    legend.hidden = !wanted;
    for (const view of views) {
      const error = view.querySelector("img.error");
      if (!error) continue; // the sharp picture has none
      error.hidden = !wanted;
      view.querySelector("img.picture").hidden = wanted;
    }
  });
}

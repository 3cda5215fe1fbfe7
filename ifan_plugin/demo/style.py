"""The page's look, on top of gradio's."""

from __future__ import annotations

from typing import Any

_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif")
_MONO = ("ui-monospace", "Menlo", "Consolas", "monospace")


def theme() -> Any:
    """gradio's, with fonts that are here: nothing is fetched."""
    import gradio as gr

    return gr.themes.Default(font=_FONTS, font_mono=_MONO)


CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; }
.gradio-container .html-container { padding: 0 !important; }
#about p { margin: 0; overflow-wrap: anywhere; }
#heading h1 { margin: 0; font-size: 1.4rem; }
.figures { display: flex; flex-wrap: wrap; gap: 16px; align-items: flex-start; }
.figures figure { margin: 0; flex: 1 1 300px; max-width: 100%; min-width: 0; }
.figures figure.kernel { flex: 1.18 1 300px; max-width: 460px; }
.figures figure.blur { flex: 1 1 280px; max-width: 390px; }
.figures img { display: block; width: 100%; height: auto; }
.figures .map > img { max-height: 460px; object-fit: contain; object-position: left; }
.figures .blur > img { image-rendering: pixelated; border-radius: 2px; }
.figures figcaption { margin-top: 6px; font-size: .875rem; line-height: 1.4; overflow-wrap: anywhere; }
.legend { max-width: 340px; margin-top: 8px; }
.legend img { width: 100%; height: 12px; border: 1px solid rgba(128, 128, 128, .6); }
.legend div { display: flex; justify-content: space-between; font-size: .8rem; }
p.note, p.problem { margin: 4px 0; line-height: 1.45; overflow-wrap: anywhere; }
p.problem { padding: 8px 12px; border-left: 4px solid #b2182b; background: rgba(178, 24, 43, .12); }
.ready { padding: 4px 2px; }
#samples { border: 0; }
#samples .grid-wrap { height: auto !important; min-height: 0 !important; max-height: 300px; padding: 0 !important; }
#samples .grid-container { padding-top: 0; }
#upload { min-height: 0; }
#place img { max-height: 420px; width: auto !important; max-width: 100%; margin: 0 auto; }

.compare .frame { position: relative; overflow: hidden; border-radius: 6px; margin: 0 auto; touch-action: pan-y;
  cursor: ew-resize; user-select: none; width: min(100%, calc(66vh * var(--ratio))); aspect-ratio: var(--ratio); }
.compare img { position: absolute; inset: 0; width: 100%; height: 100%; max-width: none; pointer-events: none; }
.compare img.before { clip-path: inset(0 calc(100% - var(--at)) 0 0); }
.compare .line { position: absolute; top: 0; bottom: 0; left: var(--at); width: 0; border-left: 2px solid #fff;
  margin-left: -1px; box-shadow: 0 0 4px #000; pointer-events: none; }
.compare .tag { position: absolute; top: 8px; padding: 2px 10px; border-radius: 12px; font-size: .85rem; color: #fff;
  background: rgba(0, 0, 0, .65); pointer-events: none; }
.compare .tag.before { left: 8px; }
.compare .tag.after { right: 8px; }
.compare .view { overflow: auto; max-height: 80vh; }
.compare.large .frame { width: var(--width); max-width: none; }
.compare .controls { display: flex; gap: 12px; align-items: center; margin-top: 6px; font-size: .9rem; }
.compare input[type=range] { flex: 1; min-width: 0; }
.compare output { min-width: 3.2em; text-align: right; font-variant-numeric: tabular-nums; }
.compare button { padding: 4px 12px; border: 1px solid rgba(128, 128, 128, .6); border-radius: 6px; }
@media (max-width: 768px) {
  #main { flex-direction: column; }
  #result { order: -1; }
  .compare .frame { width: min(100%, calc(56vh * var(--ratio))); }
}
"""

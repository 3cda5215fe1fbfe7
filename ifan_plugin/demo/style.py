"""The page's style sheet, on top of gradio's."""

CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; }
.gradio-container .html-container { padding: 0 !important; }
#weights p { margin: 0; overflow-wrap: anywhere; }
#heading h1 { margin: 0 0 .2em; font-size: 1.6rem; }
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
#picture img, #place img { max-height: 420px; width: auto !important; max-width: 100%; margin: 0 auto; }
"""

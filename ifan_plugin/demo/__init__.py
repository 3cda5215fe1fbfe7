"""``basicsr demo``: a local web page that restores a picture and shows what the network saw.

``pictures`` reads uploads within limits, ``samples`` finds pictures to try and ``choice`` networks, ``work`` restores
and inspects, ``figures`` draws, ``answers`` says what the page shows, ``page`` lays it out, ``serve`` serves it; the
last three alone need gradio.
"""

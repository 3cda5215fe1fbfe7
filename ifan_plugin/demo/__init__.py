"""``basicsr demo``: a local web page that restores a picture and shows what the network saw.

``pictures`` reads uploads within limits, ``samples`` finds pictures to try, ``work`` restores and inspects, ``figures``
draws, ``page`` is the gradio page, which alone needs gradio.
"""

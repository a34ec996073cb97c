"""Other tools, one file each: what runs them on this library's maps, or this library as they do.

- ``fwdgrad.integrations.captum``: explanations in the manner of Captum's ``attribute``.
- ``fwdgrad.integrations.quantus``: metrics of Quantus on maps of this library.

Each file needs the tool itself at most when it is called, so nothing is imported here.
"""

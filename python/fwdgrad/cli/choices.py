"""What options may be, known without torch, so that the help is there at once."""

BASELINES = ("grey", "black", "white", "blurred", "none")
CONTROLS = ("clean", "leave-one-out", "mean")
FIELDS = ("nearest", "bilinear")
FITS = ("crop", "pad", "stretch")
LAWS = ("normal", "cauchy", "hyperbolic", "logistic", "uniform", "rademacher", "hadamard")
METHODS = (
    "regions",
    "likelihood-ratio",
    "autograd",
    "gradient",
    "smoothgrad",
    "adaptgrad",
    "smoothgrad-squared",
    "vargrad",
    "noisegrad",
    "fusiongrad",
    "gradient-x-input",
    "integrated-gradients",
)
MODELS = ("efficientnet-lite0",)
OBJECTIVES = (
    "auto",
    "output",
    "logit",
    "sigmoid",
    "probability",
    "log-probability",
    "cross-entropy",
)
TEXT_MODELS = ("smollm2", "smollm2-llama.cpp")

"""What options may be, known without torch, so that the help is there at once."""

BASELINES = ("blur", "grey", "black", "white")
CONTROL_VARIATES = ("clean", "leave-one-out", "mean")
DESIGNS = ("independent", "hadamard")
DISTRIBUTIONS = ("normal", "cauchy", "hyperbolic", "logistic", "uniform", "rademacher")
ENGINES = ("auto", "onnxruntime", "torch")
FITS = ("crop", "pad", "stretch")
METHODS = (
    "regions",
    "coalitions",
    "forward-gradient",
    "gradient",
    "smoothgrad",
    "smoothgrad-squared",
    "vargrad",
    "adaptgrad",
    "noisegrad",
    "fusiongrad",
    "gradient-x-input",
    "integrated-gradients",
)
METHOD_OPTIONS = (
    "value",
    "scale",
    "distribution",
    "design",
    "block",
    "cell",
    "antithetic",
    "control_variate",
    "baseline",
    "steps",
    "clip",
)
"""The fields of the methods that are options of explain, under their own names."""
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
SPLITS = ("auto", "words", "sentences", "characters")
VALUES = ("banzhaf", "shapley")
TEXT_MODELS = ("smollm2", "smollm2-llama.cpp")

"""Every setting of a run, one row each."""

from __future__ import annotations

from normlab.settings.execution import HOST
from normlab.settings.row import Setting

SETTINGS: dict[str, Setting] = {
    "seed": Setting(
        0,
        "traced",
        "draws the initial weights, the data order and digits' split",
        low=0,
        high=2**32 - 1,
    ),
    "data.name": Setting("digits", "static", "which data set"),
    "data.batch": Setting(64, "static", "examples of one gradient step", "examples", low=1),
    "data.augment": Setting(
        "none",
        "static",
        "training images: shifted by up to 4 pixels each way, half of them mirrored (crop_flip)",
        choices=("none", "crop_flip"),
    ),
    "data.train_examples": Setting(
        0, "static", "training examples that are used; 0: all of the split", "examples", low=0
    ),
    "data.validation_examples": Setting(
        0,
        "static",
        "validation examples; 0: the data set's number; the rest of digits becomes test examples",
        "examples",
        low=0,
    ),
    "data.length": Setting(
        0,
        "static",
        "mean length of the sequences that image rows become, resampled; 0: the rows as they are",
        "steps",
        low=0,
        high=10_000,
    ),
    "data.length_spread": Setting(
        0, "static", "lengths lie within data.length -/+ this", "steps", low=0
    ),
    "data.length_law": Setting(
        "even",
        "static",
        "how often each length occurs: all equally (even), or in proportion to its inverse (log); "
        "natural: the steps are the columns of an image without its blank borders",
        choices=("even", "log", "natural"),
    ),
    "data.patch": Setting(
        0,
        "static",
        "side of the square patches of an image that are the steps of a sequence; 0: its rows are",
        "pixels",
        low=0,
    ),
    "data.permuted": Setting(False, "static", "steps in one random order, the same for all runs"),
    "data.label_noise": Setting(
        0.0,
        "traced",
        "share of the training labels that are replaced by another class; the seed chooses them",
        low=0,
        high=1,
    ),
    "data.stream": Setting(
        "auto",
        "execution",
        "images come to the device chunk by chunk: if they are more than half of its memory or are "
        "read from a disk (auto), always (on) or never (off)",
        choices=("auto", "on", "off"),
    ),
    "model.name": Setting("mlp", "static", "which network"),
    "model.widths": Setting(
        (100, 100, 100), "static", "units of each dense layer, or channels of each conv stage"
    ),
    "model.depth": Setting(
        0,
        "static",
        "hidden layers, spread evenly over `widths`; 0: one for each width; vgg: 11, 13, 16, 19; "
        "resnet: 2 x widths x n + 2 (three widths: 20, 32, 44, 56, 110), 0: one block a width",
        low=0,
        high=1000,
    ),
    "model.act": Setting("relu", "static", "activation", choices=("relu", "sigmoid", "tanh")),
    "model.placement": Setting(
        "pre",
        "static",
        "norm before (pre) or after (post) the activation; in an encoder before the branch, after "
        "the sum, or on both sides of the branch (peri)",
        choices=("pre", "post", "peri"),
    ),
    "model.block": Setting(
        "post",
        "static",
        "norm and activation after (post) or before (pre) the convolutions of a resnet's blocks",
        choices=("post", "pre"),
    ),
    "model.residual": Setting(
        "identity",
        "static",
        "a resnet's block: x + f(x); f(x) alone (none); x + a f(x), a = 0 at first (skipinit); or "
        "fixup. A transformer's: identity or skipinit",
        choices=("identity", "none", "skipinit", "fixup"),
    ),
    "model.shortcut": Setting(
        "none",
        "static",
        "around mlp layers that keep the width: x + f(x); x + a f(x), a = 0 at first (skipinit)",
        choices=("none", "identity", "skipinit"),
    ),
    "model.stride": Setting(1, "static", "stride of the cnn's first convolution", low=1, high=4),
    "model.cell": Setting(
        "gru", "static", "cell of a recurrent network", choices=("rnn", "gru", "lstm")
    ),
    "model.heads": Setting(
        4, "static", "heads of attention; divides the width", "heads", low=1, high=1024
    ),
    "model.normed": Setting(
        "both",
        "static",
        "products of a cell that have a norm: with its input and with its state, or with the input",
        choices=("both", "input"),
    ),
    "model.qk_norm": Setting(
        False, "static", "whether the queries and keys of attention have a norm each"
    ),
    "model.tied": Setting(False, "static", "whether a decoder's head is its embedding, transposed"),
    "model.dtype": Setting(
        "float32",
        "static",
        "type of activations and of the products of all layers but the head; parameters, "
        "statistics, logits and loss are float32",
        choices=("float32", "bfloat16"),
    ),
    "model.precision": Setting(
        "float32",
        "static",
        "products of float32 on accelerators that have faster ones: exact or rounded to tf32",
        choices=("float32", "tf32"),
    ),
    "norm.name": Setting("batch", "static", "which normalization scheme"),
    "norm.groups": Setting(4, "static", "groups of channels; divides 16, 32, 64, 100", low=1),
    "norm.epsilon": Setting(
        1e-5, "static", "added to the variance; the same for all arms", low=1e-30
    ),
    "norm.momentum": Setting(
        0.99, "static", "weight of the OLD running statistics (as Flax)", low=0, high=1, frozen=0.9
    ),
    "norm.stats_batch": Setting(
        0, "static", "examples that share statistics; 0: the whole batch", "examples", low=0
    ),
    "norm.average": Setting(
        "moving",
        "static",
        "running statistics: moving average, the same without its start, or mean of all batches",
        choices=("moving", "debiased", "cumulative"),
    ),
    "norm.running_var": Setting(
        "biased",
        "static",
        "variance kept for evaluation; unbiased: times n / (n - 1)",
        choices=("biased", "unbiased"),
    ),
    "norm.renorm_steps": Setting(
        100,
        "static",
        "updates until batch_renorm corrects up to r_max, d_max: a third of a short run (the "
        "paper's 40000 of 130000); 0: from the first",
        "steps",
        low=0,
    ),
    "norm.r_max": Setting(
        3.0, "static", "largest factor by which batch_renorm corrects a std (the paper's)", low=1
    ),
    "norm.d_max": Setting(
        5.0,
        "static",
        "largest distance, in stds, by which batch_renorm corrects a mean (the paper's)",
        low=0,
    ),
    "norm.time": Setting(
        "step",
        "static",
        "statistics over the batch in a network with time: of each step, or of the whole sequence "
        "for products with the input (those with the state keep steps)",
        choices=("step", "sequence"),
    ),
    "norm.masked": Setting(
        True,
        "static",
        "whether steps behind the end of a sequence are left out of statistics",
    ),
    "norm.least": Setting(
        0,
        "static",
        "sequences that statistics of a step are of at least: ended ones count with their last "
        "values where fewer are valid; 0: the valid ones alone",
        "sequences",
        low=0,
    ),
    "norm.kernel": Setting("none", "static", "scheme of the hidden kernels, with any norm"),
    "norm.noise": Setting(
        0.0, "static", "strength of the noise after every norm; 1: the published control", low=0
    ),
    "optim.name": Setting(
        "momentum",
        "static",
        "optimiser; adam_keras: Adam with the epsilon of Keras, 1e-7 on the raw second moment",
        choices=("sgd", "momentum", "adam", "adamw", "adam_keras"),
    ),
    "optim.lr": Setting(0.1, "traced", "peak learning rate", "1/step", low=0, is_open=True),
    "optim.momentum": Setting(
        0.9, "traced", "decay of the momentum (adam, adamw: of the first moment)", low=0, high=1
    ),
    "optim.weight_decay": Setting(
        0.0, "traced", "on kernels only; adamw: decoupled, the others: added to the gradient", low=0
    ),
    "optim.schedule": Setting(
        "constant",
        "static",
        "shape: constant; cosine to 0; x 0.1 at 1/2, 3/4 of the steps (step) or 3, 6, 9 tenths",
        choices=("constant", "cosine", "step", "step_three"),
    ),
    "optim.warmup": Setting(0, "static", "linear warm-up from 0", "steps", low=0),
    "init.gain": Setting(
        1.0, "traced", "multiplies the initial hidden kernels, never the head", low=0, is_open=True
    ),
    "init.norm_scale": Setting(
        1.0, "traced", "multiplies the initial scale of every norm", low=0, is_open=True
    ),
    "init.kernel": Setting(
        "auto",
        "static",
        "how kernels are drawn: He's for relu and Glorot's normal for the others and the head "
        "(auto), or all by Glorot's uniform",
        choices=("auto", "glorot_uniform"),
    ),
    "init.seed": Setting(
        -1, "traced", "draws the initial weights alone; -1: `seed` does", low=-1, high=2**32 - 1
    ),
    "train.steps": Setting(300, "static", "gradient steps", "steps", low=1, high=10_000_000),
    "train.on_nonfinite": Setting(
        "diverge",
        "static",
        "if a loss or gradient is not finite: end the run (diverge), or leave parameters, "
        "optimiser and statistics unchanged and continue (skip)",
        choices=("diverge", "skip"),
    ),
    "train.eval_every": Setting(
        50, "measurement", "least distance of two evaluations", "steps", low=1
    ),
    "train.eval_growth": Setting(
        1.0, "measurement", "least ratio of the steps of two evaluations", low=1, high=2
    ),
    "train.stop_at": Setting(
        0.0,
        "measurement",
        "validation accuracy that ends a run early, for tuning of speed; 0: never",
        low=0,
        high=1,
    ),
    "train.stop_at_loss": Setting(
        0.0,
        "measurement",
        "loss on eval.train_examples, in evaluation mode, that ends a run; 0: never",
        "nats",
        low=0,
    ),
    "train.late_batch": Setting(
        0,
        "static",
        "examples of a step from train.late_from on, at rate x late_batch / batch; 0: data.batch",
        "examples",
        low=0,
    ),
    "train.late_from": Setting(0, "static", "step at which late_batch begins", "steps", low=0),
    "train.checkpoint_seconds": Setting(
        60.0,
        "execution",
        "least time between two checkpoints; 0: a checkpoint after every chunk",
        "seconds",
        low=0,
    ),
    "eval.curve_examples": Setting(
        1000, "measurement", "validation images of each point of a curve", "examples", low=1
    ),
    "eval.stats_examples": Setting(
        512, "measurement", "training images for the re-estimation of running statistics", low=2
    ),
    "eval.train_examples": Setting(
        0,
        "measurement",
        "training images of each point of a curve, in evaluation mode: metrics train_set_..., "
        "and replaced_... for images with replaced labels",
        "examples",
        low=0,
    ),
    "eval.probes": Setting(
        "",
        "measurement",
        "diagnostics at each point of a curve: names of normlab/diagnostics, joined by +",
    ),
    "eval.batch": Setting(100, "measurement", "examples scored at once", "examples", low=1),
    "eval.batch_statistics": Setting(
        False,
        "measurement",
        "also score batches of eval.batch examples with their own statistics, in the groups of "
        "norm.stats_batch as in training (batch_... metrics)",
    ),
    "eval.long": Setting(
        0,
        "measurement",
        "also score the test examples as sequences that are 1 to this many steps longer than any "
        "in training (long_... metrics); of recurrent networks",
        "steps",
        low=0,
        high=10_000,
    ),
    **HOST,
}

# %% [markdown]
# # normlab in a notebook
#
# `jupytext --to notebook docs/examples/notebook.py` makes a notebook of this file. The runs and
# pages are those of the command lines, in the same results directory. A cell that is interrupted
# continues when it is run again.

# %%
import matplotlib.pyplot as plt

import normlab

# %% [markdown]
# One run is one call. A setting has its short name: `lr` is `optim.lr`, `norm` is `norm.name`.

# %%
runs = {
    norm: normlab.run("digits_mlp", norm=norm, lr=0.1, steps=200, eval_every=10, keep_params=True)
    for norm in ("none", "batch")
}
runs

# %% [markdown]
# `run.curve` has one row an evaluation, and `run.final` what the test split says.

# %%
for norm, run in runs.items():
    plt.plot([row["step"] for row in run.curve], [row["accuracy"] for row in run.curve], label=norm)
plt.xlabel("steps")
plt.ylabel("validation accuracy")
plt.legend()

# %% [markdown]
# The kept parameters are those of a plain Flax network.

# %%
run = runs["batch"]
x, labels = run.examples("test")
logits = run.network().apply(run.variables(), x, train=False)
float((logits.argmax(-1) == labels).mean()), run.final["running_test_accuracy"]

# %% [markdown]
# A study returns its verdicts and its page. Two seeds give a first look, no verdict.

# %%
study = normlab.study(
    "convergence", arms=["none", "batch"], seeds=2, setups=["convergence-mlp"], steps=100
)
study

# %%
{run.config["norm.name"] for run in normlab.load_runs(lr=0.1)}

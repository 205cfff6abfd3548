# %% [markdown]
# # Loss, gradient norm and speed of a run
#
# Open it as a notebook (VS Code, or Jupyter with jupytext) or run it as a script. `LOCKSTEP_RUN` is the
# output directory of a run; without it, the quickstart's.

# %%
import os

import pandas

import lockstep_runs

run = lockstep_runs.Run(os.environ.get("LOCKSTEP_RUN", "runs/quickstart"))

# %% [markdown]
# Every `step` line of metrics.jsonl is a row. What was not finite there is NaN here.

# %%
steps = run.steps_frame()
validations = run.validations_frame()
steps[["loss", "grad_norm", "learning_rate", "tokens_per_second"]].describe()

# %%
axes = steps[["loss"]].rolling(20, min_periods=1).mean().plot(title="loss, mean of 20 steps")
if not validations.empty:
    validations["loss"].plot(ax=axes, marker="o", label="validation")
axes.legend()
axes.figure.savefig("training_curves.png")

# %% [markdown]
# Steps that were not applied, and why: the ledger names every cause.

# %%
ledger = run.ledger_frame()
print(ledger["outcome"].value_counts())
print(ledger.loc[ledger["outcome"] != "applied", ["outcome", "loss", "grad_norm", "loss_scale"]])

# %% [markdown]
# Where the time of a step goes, rank by rank: the mean seconds in `timing` lines.

# %%
timing = pandas.DataFrame.from_records(list(run.events("timing")))
if not timing.empty:
    parts = ["data_seconds", "compute_seconds", "wait_seconds"]
    ranks = timing.explode(parts, ignore_index=True)
    ranks["rank"] = ranks.groupby("step").cumcount()
    print(ranks.astype({part: float for part in parts}).groupby("rank")[parts].mean())

# %% [markdown]
# Layers, if `metrics.per_layer_every` had them written: one row for each step and layer.

# %%
layers = run.layers_frame()
if not layers.empty:
    print(layers["grad_norm"].unstack("name").tail())

# %% [markdown]
# # What a run decided, and what it saved
#
# `LOCKSTEP_RUN` is the output directory of a run; without it, the quickstart's.

# %%
import os

import numpy

import lockstep_runs

run = lockstep_runs.Run(os.environ.get("LOCKSTEP_RUN", "runs/quickstart"))

# %% [markdown]
# Reading the ledger verifies its chain of hashes: a line that was altered, or removed, raises
# `LedgerError` with its number.

# %%
records = list(run.ledger())
print(f"{len(records)} records, head {records[-1].hash:016x}")

# %% [markdown]
# The manifest of a checkpoint names the record that it follows.

# %%
checkpoint = run.latest_checkpoint()
heads = {record.step: record.hash for record in records}
assert checkpoint.manifest["chain_head"] == f"{heads[checkpoint.step]:016x}"
checkpoint.verify()
run.checkpoints_frame()

# %% [markdown]
# Tensors are read when they are looked up. How far have the weights moved since the checkpoint before?

# %%
saved = run.checkpoints()
if len(saved) > 1:
    before, after = saved[-2].weights, saved[-1].weights
    for name in list(after)[:5]:
        moved = numpy.linalg.norm(after[name] - before[name]) / numpy.linalg.norm(before[name])
        print(f"{name}: {moved:.2e} of its norm")

# %% [markdown]
# The optimizer's state lies in one shard for each rank that saved; here it is whole again.

# %%
for name, values in list(checkpoint.optimizer_state.items())[:5]:
    print(f"{name}: {values.size} elements, largest {numpy.abs(values).max():.3g}")

# %% [markdown]
# # The runs of a coordinator
#
# Asked through the `lockstep` command, which finds the coordinator by `LOCKSTEP_ADDRESS` or this user's
# socket.

# %%
import lockstep_runs

try:
    coordinator = lockstep_runs.Coordinator()
    runs = coordinator.runs_frame()
except lockstep_runs.CoordinatorError as error:
    raise SystemExit(f"no coordinator: {error}") from None

# %%
columns = ["displayName", "state", "stateReason", "progress.step", "progress.loss", "createTime"]
if runs.empty:
    raise SystemExit("it has no runs yet")
print(runs[columns].head())

# %% [markdown]
# What happened to the newest one, and its loss.

# %%
newest = runs.index[0]
print(coordinator.events_frame(newest)[["kind", "actor", "time"]])
losses = [event["loss"] for event in coordinator.metrics(newest) if event["event"] == "step"]
print(losses[-5:])

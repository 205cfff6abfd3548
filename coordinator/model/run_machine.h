#pragma once

#include "coordinator/model/event.h"
#include "coordinator/model/run.h"

// The life of a run as a pure function: no clock, no files, no network.
//
//                submitted (or adopted, into the state in which it was found)
//                    |
//                    v       held (from QUEUED, BACKOFF)
//                 WAITING <--------------------------------------------+
//                    | queued                                          |
//                    v                                                 |
//   +------------> QUEUED -----------------------------------------+   |
//   |                | attempt_created: slots leased, fence durable |   |
//   | queued         v                                              |   |
//   |            STARTING --------------------------+               |   |
//   |                | ranks_ready                   |               |   |
//   |                v                               |               |   |
//   |             RUNNING                            | stopping      |   |
//   |                | stopping                      |               |   |
//   |                v                               |               |   |
//   +----------- STOPPING <-------------------------+               |   |
//   | (PREEMPT,     |  |  \___ retry_scheduled ___                   |   |
//   |  HOST_DRAIN)  |  |                          \                  |   |
//   |               |  | paused                    v                 |   |
//   |               |  +---------> PAUSED       BACKOFF -------------|---+
//   | resumed       |                 |            | queued          |
//   +---------------|-----------------+------------+ (to QUEUED)     |
//                   | terminal                                       | terminal
//                   v                                                v
//      SUCCEEDED, FAILED, CANCELLED                      FAILED, CANCELLED
//
// Every edge (event: from -> to; context beside "v"). "live" is every state that is not terminal.
//   submitted              none -> WAITING             run (without texts)
//   dependency_satisfied   WAITING                     run
//   updated                live                        display_name labels notes priority
//                                                      time_limit_ns: those that change
//   held                   WAITING QUEUED BACKOFF -> WAITING   reason
//   released               WAITING (held)
// The events that time is counted from (queued, resumed, attempt_created, ranks_ready, attempt_ended,
// terminal) have it on the steady clock too, as "at", and retry_scheduled has "due".
//   queued                 WAITING (not held, nothing pending) -> QUEUED   reason
//                          BACKOFF -> QUEUED           reason
//                          STOPPING (intent PREEMPT or HOST_DRAIN, attempt ended) -> QUEUED
//   attempt_created        QUEUED -> STARTING          number fence placements resume
//                                                      agent_token_hash
//   launched               STARTING
//   ranks_ready            STARTING -> RUNNING         resumed_from resumed_step total_steps
//   progress_mark          RUNNING STOPPING            progress
//   checkpoint_requested   RUNNING                     control_id
//   checkpoint_committed   RUNNING STOPPING            step path; answers_request: the one that was
//                                                      asked for (default), not a periodic one
//   checkpoint_failed      RUNNING STOPPING            message lost (the one known is no more); in
//                                                      RUNNING an intent PREEMPT, HOST_DRAIN or
//                                                      PAUSE is given up: the run goes on
//   stop_requested         STARTING RUNNING STOPPING   intent reason force grace_ns; only upwards
//   control_acked          RUNNING STOPPING            control_id
//   stopping               STARTING RUNNING -> STOPPING   reason message failure (or null)
//   attempt_ended          STOPPING                    exit end_time_ns stuck
//   slots_released         any, of an attempt that has ended   number
//   retry_scheduled        STOPPING (ended) -> BACKOFF due_ns delay_ns category reason message
//   paused                 STOPPING (ended, a verified checkpoint) -> PAUSED   reason message
//   resumed                PAUSED -> QUEUED
//   suspect, recovered     STARTING RUNNING STOPPING   message
//   coordinator_restarted  live
//   cleanup                any                         cleanup_state
//   adopted                none, live -> live          record: the whole of it, of a newer attempt than
//                                                      the one known, as it was found with its files
//   terminal               WAITING QUEUED BACKOFF PAUSED -> FAILED CANCELLED
//                          STOPPING (ended) -> SUCCEEDED FAILED CANCELLED   state reason message
// Nothing leaves a terminal state; there, slots_released and cleanup alone may follow.
namespace lockstep::coordinator {

// The record after the event. Throws core::Error(kData) for an edge that is not above, a sequence
// that does not follow, or a context that cannot be read: `record` is then as it was.
// sequence 0 in the event leaves event_sequence as it is.
void apply(RunRecord& record, const Event& event);

// The number of fresh checkpoints that refill the budget of restarts.
inline constexpr int kRefillCheckpoints = 3;

}  // namespace lockstep::coordinator

#include "runtime/trainer/trainer.h"

// What is measured of every layer, in the steps that it is due for.
namespace lockstep::runtime {

void Trainer::observe_layers(std::int64_t step) {
  if (layers_ && layers_->due(step)) layers_->begin(*model_);
}

void Trainer::measure_layers(std::int64_t step) {
  if (!layers_ || !layers_->due(step)) return;
  layers_->end_passes(*model_);
  layers_->measure(shard_norm_);
}

UpdateChanges* Trainer::changes_to_keep() {
  return layers_ && layers_->due(progress_.step + 1) ? &layers_->changes() : nullptr;
}

// Collective on the steps that are due.
void Trainer::report_layers(const StepUnderWay& step, const StepRecord& record) {
  if (!layers_ || step.left_out) return;
  layers_->count(record.decision, record.coefficient);
  if (!layers_->due(step.number)) return;
  const LayerReport report =
      layers_->finish(step.number, record.view.loss_scale, record.decision, communicator_);
  recorder_.layers(report, layers_->layers_due(step.number), layers_->histograms_due(step.number));
}

}  // namespace lockstep::runtime

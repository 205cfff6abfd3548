#pragma once

#include <span>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "core/memory.h"
#include "ops/muon.h"
#include "ops/op_context.h"
#include "ops/optimizer_update.h"
#include "ops/plan_table.h"
#include "runtime/config/config.h"
#include "runtime/optimizer/muon_exchange.h"
#include "runtime/optimizer/muon_matrices.h"
#include "runtime/optimizer/update_parts.h"
#include "runtime/sharding/gradient_buckets.h"
#include "runtime/sharding/model_state.h"

namespace lockstep::runtime {

// The update of the matrices under optimizer.name muon. Every rank averages the gradient of what it
// updates into the first state (torch.optim.Muon's momentum_buffer), the directions come to the
// owners of whole matrices (MuonExchange), each owner iterates Newton-Schulz on its own, and the
// results come back to those who update. So no matrix is computed twice, and no bit depends on the
// number of ranks or the stage.
class MuonUpdate {
 public:
  MuonUpdate(const Config& config, const models::ParameterTable& table, ModelState& state,
             const GradientBuckets& gradients, comm::Communicator& communicator,
             ops::OpContext& context, core::MemoryTracker& memory);

  // Collective. rule: of kind kMuon. factors: by parameter, or one for all; clamp: of the gradient;
  // changes: as ShardedUpdate::apply().
  void apply(const ops::UpdateRule& rule, const ops::RunFactors& factors, float clamp,
             UpdateChanges* changes = nullptr);
  // The same where a device decides, as ShardedUpdate::apply_decided().
  void apply_decided(std::span<const ops::UpdateRule> rules, const ops::UpdateChoice* choice,
                     std::span<const float> by_parameter, float clamp);

  bool updates(models::ParameterId id) const { return is_matrix_[static_cast<std::size_t>(id)]; }

  static constexpr const char* kRegion = "muon";
  // What the constructor allocates in that region, on every rank.
  static std::size_t bytes(const Config& config, const models::ParameterTable& table,
                           const BucketLayout& layout, int zero_stage);
  // The most scratch that an op of the iterations asks for, on the CPU.
  static std::size_t scratch_bytes(const Config& config, const models::ParameterTable& table,
                                   int threads);

  // Of this rank's iterations since the last call, by the host's clock: on the CPU, where an op is
  // done when its call returns.
  double take_iteration_seconds() { return std::exchange(iteration_seconds_, 0.0); }

 private:
  struct Slice {
    models::ParameterId parameter = models::kNoParameter;
    core::ConstTensorView gradient;
    core::TensorView moment;
    core::TensorView direction;
  };

  void add_slice(const GradientBuckets& gradients, const MuonExchange::Updated& updated,
                 const std::vector<TensorRule>& rules, std::vector<RuledRun>& runs);
  void average(const std::int32_t* apply, const ops::RunFactors& factors, float clamp);
  void orthogonalise();
  void iterate(std::size_t owned);
  core::TensorView held() const;
  core::TensorView gathered() const;
  std::span<const float> adjustments() const {
    return {adjust_.data(), static_cast<std::size_t>(adjust_.size())};
  }

  MuonConfig config_;
  ModelState& state_;
  comm::Communicator& communicator_;
  ops::OpContext& context_;
  std::vector<MuonMatrix> matrices_;
  std::vector<bool> is_matrix_;  // by parameter
  MuonExchange exchange_;
  comm::SharedBuffer held_;
  comm::SharedBuffer gathered_;
  core::Buffer room_;  // of an iteration, then the matrix that it is about
  ops::NewtonSchulzRoom iteration_;
  core::TensorView matrix_;
  std::vector<Slice> slices_;
  ops::PlanTable<float> adjust_;  // by matrix
  double iteration_seconds_ = 0.0;
  UpdateParts parts_;  // each run takes the factor of its matrix
};

// optimizer.muon.adjust: original sqrt(max(1, rows / cols)), match_rms_adamw
// 0.2 sqrt(max(rows, cols)), of the whole matrix.
double muon_adjustment(MuonAdjust adjust, const MuonMatrix& matrix);

}  // namespace lockstep::runtime

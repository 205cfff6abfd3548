#pragma once

#include <cstdint>
#include <exception>
#include <functional>

#include "comm/communicator.h"
#include "models/model_io.h"
#include "models/parameter_table.h"

namespace lockstep::runtime {

// All ranks leave what they compute, at the same place, because one of them is asked to stop.
class StopAgreed : public std::exception {
 public:
  const char* what() const noexcept override { return "stopped on request"; }
};

// Passes a model its parameters, and between two of them lets the ranks agree whether to stop, so
// that a request is heard within a step or a validation that takes long.
//
// When they do follows from the products that were computed meanwhile, about one exchange for
// kWorkBetween operations, so it is the same on all ranks, and a step of a small model has none.
class StopPoints : public models::ParameterSource {
 public:
  // asked: whether this rank is asked to stop; empty: there are no stop points.
  StopPoints(models::ParameterSource& parameters, const models::ParameterTable& table,
             comm::Communicator& communicator)
      : parameters_(parameters), table_(table), communicator_(communicator) {}
  void set_question(std::function<bool()> asked) { asked_ = std::move(asked); }

  // Of what follows: tokens that each product is over; 0: no stop points, as where ranks do not all
  // compute the same.
  void begin(std::int64_t tokens);
  void set_tokens(std::int64_t tokens) { tokens_ = tokens; }

  // models::ParameterSource. Throws StopAgreed on all ranks.
  core::ConstTensorView parameter(models::ParameterId id) override;

  // Collective: whether any rank is asked to stop.
  bool agreed();

 private:
  // A tenth of a second of a core, and more where the products are small.
  static constexpr std::int64_t kWorkBetween = 4'000'000'000;

  models::ParameterSource& parameters_;
  const models::ParameterTable& table_;
  comm::Communicator& communicator_;
  std::function<bool()> asked_;
  std::int64_t tokens_ = 0;
  std::int64_t work_ = 0;  // since the last exchange
};

}  // namespace lockstep::runtime

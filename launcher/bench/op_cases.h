#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "launcher/bench/operands.h"
#include "models/model_config.h"

namespace lockstep::launcher {

// The model whose ops are measured, and its micro-batch.
struct OpShapes {
  std::string name;  // "gpt2-124m"
  models::ModelConfig model;
  std::int64_t sequences = 1;  // each of model.context tokens
  core::DType dtype = core::DType::kF32;

  std::int64_t tokens() const { return sequences * model.context; }
};

// Names of the models that model_named knows.
const std::vector<std::string>& model_names();
// Throws Error(kConfig) for another one.
models::ModelConfig model_named(const std::string& name);

// One call of an op on operands that stay where they are.
struct OpRun {
  std::function<void()> call;
  std::function<void()> restore = {};  // what a call needs and the one before took; may be empty
};

// An op at a shape of the model.
struct OpCase {
  std::string op;      // as it is declared in ops
  std::string part;    // whose of the model, which way: "attention.qkv forward"
  std::string shape;   // sizes that decide, for people
  double calls = 0.0;  // of it in one micro-batch and one update; 0: this model has no use for it
  double operations = 0.0;  // that matrix units can do; a multiply-add counts two
  std::function<OpRun(Operands&)> prepare;

  std::string name() const { return op + " " + part; }
};

// Every op of ops that a step calls, forward and backward, those too that this model does
// not need.
std::vector<OpCase> op_cases(const OpShapes& shapes);

// Its parts, by the file that makes them.
void add_product_cases(const OpShapes& shapes, std::vector<OpCase>& cases);
void add_row_cases(const OpShapes& shapes, std::vector<OpCase>& cases);
void add_edge_cases(const OpShapes& shapes, std::vector<OpCase>& cases);
void add_update_cases(const OpShapes& shapes, std::vector<OpCase>& cases);

}  // namespace lockstep::launcher

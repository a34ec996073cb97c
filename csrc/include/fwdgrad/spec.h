// Everything that defines the draws, as it crosses from Python.
#pragma once

#include "distributions.h"

namespace fwdgrad {

// Samples whose terms are summed together: a sum is that of chunks of samples, cut at multiples of
// this of their numbers.
constexpr int64_t kChunk = 256;

// The input is seen as (leading, depth, height, width); depth is 1 but for grids over three axes,
// and a vector has leading = height = 1.
struct Spec {
  int64_t leading, depth, height, width;
  Distribution distribution;
  int64_t block_height, block_width;            // the axis length where an axis is covered whole
  int64_t cell_depth, cell_height, cell_width;  // 1 where an axis has no cells
  bool linear;                                  // else nearest; linear only where there are cells
  bool shared;                                  // one draw for all leading axes
  bool jitters;                                 // samples shift their grid of cells
  int64_t labels;                               // how many there are; 0 without
  int64_t label_inner, label_period;            // period -1: the order of a grid's draws
  const int32_t* mask;                          // element e of the contiguous input has the label
                        // mask[e / label_inner % label_period]; with an order, line k of the
                        // grid takes draw mask[k] of `labels`
  uint64_t seed;
  uint32_t stream;  // of the draws: kInputNoise, or a parameter's; not of hadamard's

  FWDGRAD_HD int64_t planes() const { return leading * depth; }
  FWDGRAD_HD int64_t numel() const { return planes() * height * width; }
  FWDGRAD_HD bool has_cells() const { return cell_depth > 1 || cell_height > 1 || cell_width > 1; }
  FWDGRAD_HD bool has_blocks() const { return block_height != height || block_width != width; }
  FWDGRAD_HD bool is_ordered() const { return label_period < 0; }
  FWDGRAD_HD bool is_labelled() const { return labels && !is_ordered(); }
  // Whether draw k belongs to element k of the contiguous input.
  FWDGRAD_HD bool is_elementwise() const {
    return !has_cells() && !labels && (!shared || leading == 1);
  }
};

}  // namespace fwdgrad

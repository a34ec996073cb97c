// Everything that defines the draws, as it crosses from Python to the kernels.
#pragma once

#include "laws.h"

namespace fwdgrad {

// The input is seen as (leading, height, width); a vector has leading = height = 1.
struct Spec {
  int64_t leading, height, width;
  Law law;
  int64_t block_height, block_width;  // the axis length where an axis is covered whole
  int64_t cell_height, cell_width;    // 1 where an axis has no cells
  bool bilinear;                      // else nearest; bilinear only where there are cells
  bool shared;                        // one draw for all leading axes
  bool shifts;                        // copies shift their grid of cells
  uint64_t seed;
  uint32_t stream;  // of the draws: kInputNoise, or a parameter's; not of hadamard's

  FWDGRAD_HD int64_t numel() const { return leading * height * width; }
  FWDGRAD_HD bool has_cells() const { return cell_height > 1 || cell_width > 1; }
  // Whether draw k belongs to element k of the contiguous input.
  FWDGRAD_HD bool is_elementwise() const { return !has_cells() && (!shared || leading == 1); }
};

}  // namespace fwdgrad

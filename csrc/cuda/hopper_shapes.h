// The tiles that are compiled: columns, stages, and rows and columns of the cluster. bench/hopper.py compiles others.
#pragma once

#include "hopper_mainloop.h"

#ifndef REPSIM_SUMS_SHAPE
#define REPSIM_SUMS_SHAPE 192, 4, 2, 1
#endif
#ifndef REPSIM_SELECT_SHAPE
#define REPSIM_SELECT_SHAPE 256, 4, 2, 1
#endif
#ifndef REPSIM_SUPERTILE
#define REPSIM_SUPERTILE 160  // tiles of a block in a supertile, about as many as run at once
#endif

namespace repsim::cuda::hopper {

using SumsShape = TileShape<REPSIM_SUMS_SHAPE>;
using SelectShape = TileShape<REPSIM_SELECT_SHAPE>;
constexpr int kSumsSupertile = REPSIM_SUPERTILE / SumsShape::kCluster;
constexpr int kSelectSupertile = REPSIM_SUPERTILE / SelectShape::kCluster;

}  // namespace repsim::cuda::hopper

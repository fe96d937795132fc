// What an instruction makes of each lane by itself.
#pragma once

#include "program.h"

namespace repsim::ptx {

constexpr int kLanes = 32;

// Writes the lanes of the mask. False where the instruction is about more than its own lane.
bool compute(const Instruction& i, uint64_t (*slots)[kLanes], uint32_t mask);

}  // namespace repsim::ptx

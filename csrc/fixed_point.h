// Sums of whole numbers beyond 64 bits, that do not depend on their order.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace repsim {

// Two limbs, value = limbs[0] 2^32 + limbs[1]. An addition carries what it pushes over bit 32 itself, so that no number
// of terms overflows the lower limb; the bits above 32 that stay in it are dropped at the end.
constexpr int64_t kLow = 0xffffffff;

// add(to, term) adds in one piece and returns what was there.
template <class Add>
REPSIM_HOST_DEVICE inline void add_to_limbs(int64_t* limbs, int64_t term, Add add) {
  const int64_t low = term & kLow;
  const int64_t carry = ((add(limbs + 1, low) & kLow) + low) >> 32;
  add(limbs, (term >> 32) + carry);
}

}  // namespace repsim

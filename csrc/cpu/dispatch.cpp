// Which vector code this CPU runs. REPSIM_HAS_X86 is set by the build where the x86 variants exist.
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "row_ops.h"
#include "tiles.h"

namespace repsim::cpu {

#define REPSIM_VARIANT(isa)    \
  namespace isa {              \
  extern const TileOps ops;    \
  extern const RowOps row_ops; \
  }
REPSIM_VARIANT(generic)
#if REPSIM_HAS_X86
REPSIM_VARIANT(avx2)
REPSIM_VARIANT(avx512)
REPSIM_VARIANT(avx512bf16)
#endif

namespace {

struct Variant {
  const TileOps& tiles;
  const RowOps& rows;
};

Variant choose() {
  // For tests and bug reports: REPSIM_ISA=generic|avx2|avx512 asks for an older instruction set than the CPU has.
  const char* asked = std::getenv("REPSIM_ISA");
  const auto allowed = [&](const char* name) { return !asked || !*asked || std::strcmp(asked, name) == 0; };
#if REPSIM_HAS_X86
  __builtin_cpu_init();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  if (allowed("avx512bf16") && avx512 && __builtin_cpu_supports("avx512bf16"))
    return {avx512bf16::ops, avx512bf16::row_ops};
  if (allowed("avx512") && avx512) return {avx512::ops, avx512::row_ops};
  if (allowed("avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return {avx2::ops, avx2::row_ops};
#endif
  if (!allowed("generic"))
    throw std::invalid_argument(
        std::string("REPSIM_ISA: expected avx512bf16, avx512, avx2 or generic, as this CPU has it, got ") + asked);
  return {generic::ops, generic::row_ops};
}

const Variant& chosen() {
  static const Variant variant = choose();
  return variant;
}

}  // namespace

const TileOps& tile_ops() { return chosen().tiles; }
const RowOps& row_ops() { return chosen().rows; }

}  // namespace repsim::cpu

namespace repsim {
const char* instruction_set() { return cpu::tile_ops().instruction_set; }
bool multiplies_bfloat16() { return cpu::tile_ops().multiply_pairs != nullptr; }
}  // namespace repsim

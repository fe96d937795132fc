// Which tile code this CPU runs. REPSIM_HAS_X86 is set by the build where the x86 variants exist.
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "tiles.h"

namespace repsim::cpu {

namespace generic { extern const TileOps ops; }
#if REPSIM_HAS_X86
namespace avx2 { extern const TileOps ops; }
namespace avx512 { extern const TileOps ops; }
namespace avx512bf16 { extern const TileOps ops; }
#endif

namespace {

const TileOps& choose() {
  // For tests and bug reports: REPSIM_ISA=generic|avx2|avx512 asks for an older instruction set than the CPU has.
  const char* asked = std::getenv("REPSIM_ISA");
  const auto allowed = [&](const char* name) { return !asked || !*asked || std::strcmp(asked, name) == 0; };
#if REPSIM_HAS_X86
  __builtin_cpu_init();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  if (allowed("avx512bf16") && avx512 && __builtin_cpu_supports("avx512bf16")) return avx512bf16::ops;
  if (allowed("avx512") && avx512) return avx512::ops;
  if (allowed("avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2::ops;
#endif
  if (!allowed("generic"))
    throw std::invalid_argument(
        std::string("REPSIM_ISA: expected avx512bf16, avx512, avx2 or generic, as this CPU has it, got ") + asked);
  return generic::ops;
}

}  // namespace

const TileOps& tile_ops() {
  static const TileOps& chosen = choose();
  return chosen;
}

}  // namespace repsim::cpu

namespace repsim {
const char* instruction_set() { return cpu::tile_ops().instruction_set; }
}  // namespace repsim

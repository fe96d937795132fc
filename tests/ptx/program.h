// A kernel as the compiler wrote it in PTX, decoded once and executed by block.h.
//
// Every register, special register, constant and address that an instruction reads or writes is a slot: 64 bits for
// each of the 32 lanes of a warp. Functions are pasted in where they are called.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace repsim::ptx {

// clang-format off
enum class Op : uint8_t {
  add, sub, mul_lo, mul_hi, mul_wide, mad_lo, fma, div, min, max, neg, abs, sqrt, ex2, bit_and, bit_or, bit_xor,
  bit_not, shl, shr, popc, brev, bfind_shift, bfi, mov, split, join, cvt, setp, selp, load, load_param, store, atom_add,
  shuffle, vote, warp_sync, block_sync, cluster_arrive, cluster_wait, branch, exit, trap, map_address, barrier_init,
  barrier_arrive, barrier_expect, barrier_try_wait, copy_tensor, copy_word, copy_wait, mma, wgmma, wgmma_commit,
  wgmma_wait, nothing
};

enum class Kind : uint8_t { bits, uint, sint, real, predicate };
struct Type {
  Kind kind = Kind::bits;
  int size = 0;  // bytes
};

enum class Test : uint8_t { eq, ne, lt, le, gt, ge, unordered_lt, unordered_le, unordered_gt, unordered_ge, neu };
enum class Rounding : uint8_t { nearest, zero, up, down };
enum class Exchange : uint8_t { butterfly, index, down, up };
enum class Vote : uint8_t { ballot, any, all };
// clang-format on

struct Instruction {
  Op op = Op::nothing;
  Type type, from_type;  // of what is written; of what is read where that is another
  int guard = -1;        // slot of a predicate, or none
  bool unless = false;   // executed where the guard does not hold
  Test test{};
  Rounding rounding{};
  Exchange exchange{};
  Vote vote{};
  bool flush = false;      // denormal numbers to 0
  bool multicast = false;  // to several blocks of the cluster
  int columns = 0;         // of a wgmma
  int target = -1;         // of a branch
  int64_t offset = 0;      // of an address
  std::vector<int> to, from;
  int line = 0;  // in the text
};

// Slots that are set before a warp begins.
enum class Special : uint8_t { constant, parameters, thread, threads, block, blocks, block_in_cluster };
struct Preset {
  int slot;
  Special what;
  uint64_t value;  // of a constant; bytes from the begin of the parameters
};

struct Kernel {
  std::string name;
  std::vector<Instruction> code;
  std::vector<Preset> presets;
  int slots = 0;
  struct Parameter {
    uint64_t at, bytes;
  };
  std::vector<Parameter> parameters;
  uint64_t parameter_bytes = 0;  // of all, with what lies between them
  uint64_t static_shared = 0;    // bytes
};

constexpr uint64_t kSharedBegin = 1024;         // of a block's shared memory, where kernels for sm_90 find theirs
constexpr uint64_t kSharedWindow = 1ull << 62;  // where shared memory begins among the addresses of all memory

// The kernels of a module's text; what it does not know it refuses, with the line.
std::map<std::string, std::shared_ptr<const Kernel>> parse(const std::string& text);

}  // namespace repsim::ptx

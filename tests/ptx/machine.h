// A machine that executes decoded PTX: clusters of blocks of warps, with shared memory, barriers and asynchronous
// copies. Which warp goes on next, and when a copy lands, is drawn from a seed: what holds for every seed does not
// depend on luck.
//
// It stops with an error at what a GPU would pass over in silence or hang on: an access outside of memory or not
// aligned, a race in shared memory, a collective that a lane of its mask never reaches, a signal to a block that has
// left, warps that wait for ever. What it does not model: time, the order of global memory between blocks, register
// allocation, and the rounding inside of tensor cores, whose sums it takes in float64.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "arithmetic.h"
#include "clocks.h"
#include "program.h"

namespace repsim::ptx {

// What cuTensorMapEncodeTiled is asked for, in the place of what the hardware reads.
struct TensorMap {
  static constexpr uint64_t kMagic = 0x70616d726f736e65;
  uint64_t magic;
  const unsigned char* data;
  uint32_t rank, element_bytes, swizzle_bytes;
  uint64_t sizes[5], strides[4];  // strides in bytes, of all dimensions but the first
  uint32_t box[5];
};
static_assert(sizeof(TensorMap) <= 128);

struct Launch {
  const Kernel* kernel;
  unsigned blocks, threads, cluster;
  uint64_t dynamic_shared;
  const unsigned char* parameters;
  uint64_t seed;
  uint64_t* executed;  // [code] how often each instruction was
};

struct Range {
  uint64_t begin, end;
};

// Global memory that kernels may touch. Where none is named they may touch all.
std::vector<Range>& allowed();

// Runs every cluster of a launch, in some order. Throws std::runtime_error.
void execute(const Launch& launch);

class Cluster;

// The state of the barrier objects of shared memory (mbarrier).
struct TransactionBarrier {
  uint32_t expected, pending, phase = 0;
  int64_t bytes = 0;  // announced and not yet there
  Clocks arriving{}, passed{};
};

struct Block {
  Block(uint64_t shared_bytes, int first_warp, int warps)
      : shared(shared_bytes, 0xff), history(shared_bytes, warps), first_warp(first_warp), warps(warps) {}

  std::vector<unsigned char> shared;  // what nobody wrote is a NaN
  History history;
  std::map<uint32_t, TransactionBarrier> barriers;  // by address
  int first_warp, warps;                            // in the cluster
  int left = 0;                                     // warps that have ended
};

class Warp {
 public:
  enum class Turn { spent, waits, spins, ended };

  Warp(Cluster& cluster, int number, unsigned block, unsigned first_thread, unsigned threads);

  // Executes some instructions, or fewer where the warp has to wait.
  Turn run(int instructions);

  // Goes on after a barrier of its block or cluster.
  void pass_barrier();

  int number() const { return number_; }
  int block() const { return block_; }
  int in_block() const { return static_cast<int>(first_thread_) / kLanes; }
  bool ended() const { return groups_.empty(); }
  bool held() const { return held_; }
  // Instructions since it last waited in a loop for a barrier that was not passed.
  int64_t since_spin() const { return since_spin_; }
  std::string where() const;

  Clocks clocks;
  // What follows is not seen by those who have seen what came before.
  void tick() { ++clocks.of[number_]; }

 private:
  struct Group {  // lanes that are at the same place
    int pc;
    uint32_t lanes;
    bool waits = false;  // for lanes that are elsewhere
  };
  struct Reading {  // shared memory that products under way read
    uint64_t at;
    int bytes;
  };
  struct WordCopy {
    uint64_t to, from;
    bool exists;
  };

  [[noreturn]] void fail(const std::string& what, int lane = -1) const;
  const Instruction& at(const Group& group) const;
  uint64_t value(const Instruction& i, size_t operand, int lane) const { return slots_[i.from[operand]][lane]; }
  uint32_t guarded(const Instruction& i, uint32_t lanes) const;
  void place(int pc, uint32_t lanes);
  void move(size_t group, int pc);
  uint32_t alive() const;
  bool together(Group& group, uint32_t members);
  Agent agent(int lane) const { return {number_, lane, lane_epoch_, &clocks}; }

  Turn collective(size_t group, const Instruction& i, uint32_t lanes);
  void leave(size_t group, uint32_t lanes);
  void memory(const Instruction& i, uint32_t lanes);
  void load(const Instruction& i, int lane);
  void store(const Instruction& i, int lane);
  void add(const Instruction& i, int lane);
  unsigned char* find(uint64_t address, int bytes, bool writes, int lane);
  unsigned char* find_shared(uint64_t address, int bytes, bool writes, const Agent& who, bool under_way = false);
  void shuffle(const Instruction& i, uint32_t lanes);
  void vote(const Instruction& i, uint32_t lanes);
  void mma(const Instruction& i);
  void wgmma(const Instruction& i);
  void settle(size_t left_under_way);
  void copy_words(int lane);
  void copy_tensor(const Instruction& i, int lane);

  Cluster& cluster_;
  const Kernel& kernel_;
  int number_, block_;
  unsigned first_thread_;
  std::vector<uint64_t> memory_;
  uint64_t (*slots_)[kLanes];
  std::vector<Group> groups_;  // by place
  bool held_ = false;          // by a barrier of the block or the cluster
  uint32_t lane_epoch_ = 0;
  int64_t since_spin_ = 0;
  std::vector<Reading> issued_;
  std::deque<std::vector<Reading>> under_way_;  // groups of products, the oldest first
  std::vector<WordCopy> words_[kLanes];
};

// Blocks that run at the same time.
class Cluster {
 public:
  Cluster(const Launch& launch, unsigned first_block);
  void run();

  const Launch& launch() const { return launch_; }
  unsigned first_block() const { return first_block_; }
  Block& block(int number) { return blocks_.at(number); }
  size_t blocks() const { return blocks_.size(); }
  bool odd() { return random_() & 1; }

  // The barrier object at an address of shared memory, as a block sees it.
  TransactionBarrier& barrier(uint64_t address, int from_block);
  void arrive(TransactionBarrier& barrier, uint32_t arrivals, int64_t bytes, const Clocks& clocks);
  void initialise(uint64_t address, int from_block, uint32_t count);

  void hold(Warp& warp, int barrier, int threads);
  void hold_cluster(Warp& warp);
  void arrive_cluster(Warp& warp);
  void left(Warp& warp);

  struct Copy {  // one block's part of a bulk tensor copy
    TensorMap map;
    int64_t coordinates[5];
    int block;
    uint32_t to, barrier;
    int issuer;
    Clocks clocks;
  };
  void begin(const Copy& copy) { copies_.push_back(copy), progress(); }
  void progress() { turns_in_vain_ = 0; }

 private:
  struct Meeting {
    int threads = 0, expected = 0;
    std::vector<Warp*> warps;
  };
  void land(const Copy& copy);
  void meet(Meeting& meeting);
  void meet_cluster();
  [[noreturn]] void hang() const;

  const Launch& launch_;
  unsigned first_block_;
  std::mt19937_64 random_;
  std::vector<Block> blocks_;
  std::deque<Warp> warps_;
  std::map<std::pair<int, int>, Meeting> meetings_;  // by block and barrier
  std::vector<Copy> copies_;
  std::vector<Warp*> cluster_waits_;
  Clocks cluster_arriving_{}, cluster_passed_{};
  std::vector<bool> arrived_;
  int64_t turns_in_vain_ = 0;
};

}  // namespace repsim::ptx

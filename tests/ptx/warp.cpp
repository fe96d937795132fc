#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "machine.h"

namespace repsim::ptx {

Warp::Warp(Cluster& cluster, int number, unsigned block, unsigned first_thread, unsigned threads)
    : cluster_(cluster),
      kernel_(*cluster.launch().kernel),
      number_(number),
      block_(static_cast<int>(block)),
      first_thread_(first_thread),
      memory_(static_cast<size_t>(kernel_.slots) * kLanes, 0xfff4dead7ff4deadull),
      slots_(reinterpret_cast<uint64_t (*)[kLanes]>(memory_.data())) {
  const Launch& launch = cluster.launch();
  for (const Preset& preset : kernel_.presets)
    for (int l = 0; l < kLanes; ++l) {
      uint64_t& to = slots_[preset.slot][l];
      switch (preset.what) {
        case Special::constant:
          to = preset.value;
          break;
        case Special::parameters:
          to = reinterpret_cast<uint64_t>(launch.parameters) + preset.value;
          break;
        case Special::thread:
          to = first_thread + l;
          break;
        case Special::threads:
          to = launch.threads;
          break;
        case Special::block:
          to = cluster.first_block() + block;
          break;
        case Special::blocks:
          to = launch.blocks;
          break;
        case Special::block_in_cluster:
          to = block;
          break;
      }
    }
  clocks.of[number] = 1;
  groups_.push_back({0, threads >= kLanes ? ~0u : (1u << threads) - 1});
}

void Warp::fail(const std::string& what, int lane) const {
  std::string who = "block " + std::to_string(cluster_.first_block() + block_) + ", warp " + std::to_string(in_block());
  if (lane >= 0) who += ", lane " + std::to_string(lane);
  throw std::runtime_error("[ptx] " + kernel_.name + ", " + where() + ", " + who + ": " + what);
}

const Instruction& Warp::at(const Group& group) const { return kernel_.code[group.pc]; }

std::string Warp::where() const {
  if (groups_.empty()) return "at its end";
  std::string lines;
  for (const Group& group : groups_) lines += (lines.empty() ? "line " : ", ") + std::to_string(at(group).line);
  return lines;
}

uint32_t Warp::alive() const {
  uint32_t all = 0;
  for (const Group& group : groups_) all |= group.lanes;
  return all;
}

uint32_t Warp::guarded(const Instruction& i, uint32_t lanes) const {
  if (i.guard < 0) return lanes;
  uint32_t holds = 0;
  for (int l = 0; l < kLanes; ++l) holds |= static_cast<uint32_t>(slots_[i.guard][l] & 1) << l;
  return lanes & (i.unless ? ~holds : holds);
}

void Warp::place(int pc, uint32_t lanes) {
  const auto found =
      std::lower_bound(groups_.begin(), groups_.end(), pc, [](const Group& g, int at) { return g.pc < at; });
  if (found != groups_.end() && found->pc == pc) {
    found->lanes |= lanes;
    found->waits = false;
  } else {
    groups_.insert(found, {pc, lanes});
  }
}

void Warp::move(size_t group, int pc) {
  if (groups_.size() == 1) {
    groups_[0].pc = pc;
    return;
  }
  const uint32_t lanes = groups_[group].lanes;
  groups_.erase(groups_.begin() + static_cast<long>(group));
  place(pc, lanes);
}

// Whether all members that have not ended are here; otherwise the group waits for them.
bool Warp::together(Group& group, uint32_t members) {
  if ((members & alive() & ~group.lanes) == 0) return true;
  group.waits = true;
  return false;
}

Warp::Turn Warp::run(int instructions) {
  for (; instructions > 0; --instructions) {
    if (groups_.empty()) return Turn::ended;
    if (held_) return Turn::waits;
    // The hindmost lanes go first, so that lanes meet again where their ways do.
    size_t g = 0;
    while (g < groups_.size() && groups_[g].waits) ++g;
    if (g == groups_.size()) fail("lanes wait for one another");
    const Instruction& i = at(groups_[g]);
    const uint32_t lanes = guarded(i, groups_[g].lanes);
    ++cluster_.launch().executed[groups_[g].pc];
    ++since_spin_;
    try {
      if (lanes == 0 || compute(i, slots_, lanes)) {
        move(g, groups_[g].pc + 1);
        continue;
      }
    } catch (const std::exception& error) {
      fail(error.what());
    }
    const Turn turn = collective(g, i, lanes);
    if (turn != Turn::spent) return turn;
  }
  return Turn::spent;
}

// Whatever is more than a lane's own arithmetic.
Warp::Turn Warp::collective(size_t g, const Instruction& i, uint32_t lanes) {
  Group& group = groups_[g];
  const int next = group.pc + 1;
  const int first = std::countr_zero(lanes);
  const auto whole_warp = [&] { return together(group, ~0u); };
  switch (i.op) {
    case Op::branch: {
      const uint32_t rest = group.lanes & ~lanes;
      if (rest == 0) {
        move(g, i.target);
      } else {
        groups_.erase(groups_.begin() + static_cast<long>(g));
        place(i.target, lanes);
        place(next, rest);
      }
      return Turn::spent;
    }
    case Op::exit:
      leave(g, lanes);
      return groups_.empty() ? Turn::ended : Turn::spent;
    case Op::trap:
      fail("trap");
    case Op::nothing:
      break;
    case Op::warp_sync:
      if (!together(group, static_cast<uint32_t>(value(i, 0, first)))) return Turn::spent;
      ++lane_epoch_;
      break;
    case Op::shuffle:
      if (!together(group, static_cast<uint32_t>(value(i, i.from.size() - 1, first)))) return Turn::spent;
      shuffle(i, lanes);
      break;
    case Op::vote:
      if (!together(group, static_cast<uint32_t>(value(i, 1, first)))) return Turn::spent;
      vote(i, lanes);
      break;
    case Op::mma:
      if (!whole_warp()) return Turn::spent;
      mma(i);
      break;
    case Op::wgmma:
      if (!whole_warp()) return Turn::spent;
      wgmma(i);
      break;
    case Op::wgmma_commit:
      if (!whole_warp()) return Turn::spent;
      under_way_.push_back(std::exchange(issued_, {}));
      break;
    case Op::wgmma_wait:
      if (!whole_warp()) return Turn::spent;
      settle(value(i, 0, first));
      break;
    case Op::block_sync:
      if (!whole_warp()) return Turn::spent;
      held_ = true;
      cluster_.hold(*this, static_cast<int>(value(i, 0, first)),
                    i.from.size() > 1 ? static_cast<int>(value(i, 1, first)) : 0);
      return Turn::waits;
    case Op::cluster_arrive:
      if (!whole_warp()) return Turn::spent;
      cluster_.arrive_cluster(*this);
      break;
    case Op::cluster_wait:
      if (!whole_warp()) return Turn::spent;
      held_ = true;
      cluster_.hold_cluster(*this);
      return Turn::waits;
    case Op::barrier_try_wait: {
      bool all = true;
      for (int l = 0; l < kLanes; ++l) {
        if (!(lanes >> l & 1)) continue;
        TransactionBarrier& barrier = cluster_.barrier(value(i, 0, l) + i.offset, block_);
        const bool passed = (barrier.phase & 1) != (value(i, 1, l) & 1);
        slots_[i.to[0]][l] = passed;
        if (passed) clocks.join(barrier.passed);
        all &= passed;
      }
      move(g, next);
      if (!all) since_spin_ = 0;
      return all ? Turn::spent : Turn::spins;
    }
    default:
      memory(i, lanes);
  }
  move(g, next);
  return Turn::spent;
}

void Warp::pass_barrier() {
  held_ = false;
  ++lane_epoch_;
  move(0, groups_[0].pc + 1);
}

void Warp::leave(size_t g, uint32_t lanes) {
  for (int l = 0; l < kLanes; ++l)
    if ((lanes >> l & 1) && !words_[l].empty()) fail("leaves with copies under way", l);
  groups_[g].lanes &= ~lanes;
  if (groups_[g].lanes == 0)
    groups_.erase(groups_.begin() + static_cast<long>(g));
  else
    move(g, groups_[g].pc + 1);
  for (Group& group : groups_) group.waits = false;
  if (!groups_.empty()) return;
  if (std::any_of(under_way_.begin(), under_way_.end(), [](auto& r) { return !r.empty(); }))
    throw std::runtime_error("[ptx] " + kernel_.name + ": a warp leaves with products under way");
  cluster_.left(*this);
}

// ----------------------------------------------------------------------------------------------------------- memory

unsigned char* Warp::find_shared(uint64_t address, int bytes, bool writes, const Agent& who, bool under_way) {
  const uint64_t offset = address & 0xffffff;
  if (address >> 24) fail("touches the shared memory of another block", who.lane);
  Block& block = cluster_.block(block_);
  if (offset < kSharedBegin || offset - kSharedBegin + bytes > block.shared.size())
    fail("touches shared memory at " + std::to_string(offset) + ", which ends at " +
             std::to_string(kSharedBegin + block.shared.size()),
         who.lane);
  const std::string race = writes ? block.history.write(offset - kSharedBegin, bytes, who, block.first_warp)
                                  : block.history.read(offset - kSharedBegin, bytes, who, in_block(), under_way);
  if (!race.empty())
    fail(race + ", with no barrier between (shared memory at " + std::to_string(offset) + ")", who.lane);
  return block.shared.data() + (offset - kSharedBegin);
}

unsigned char* Warp::find(uint64_t address, int bytes, bool writes, int lane) {
  if (address % bytes) fail("touches " + std::to_string(bytes) + " bytes that are not aligned so", lane);
  if (address & kSharedWindow) return find_shared(address & ~kSharedWindow, bytes, writes, agent(lane));
  const auto& ranges = allowed();
  const bool inside =
      ranges.empty() ? address >= 4096 : std::any_of(ranges.begin(), ranges.end(), [&](const Range& range) {
        return address >= range.begin && address + bytes <= range.end;
      });
  if (!inside) fail("touches global memory that it was not given", lane);
  return reinterpret_cast<unsigned char*>(address);
}

void Warp::load(const Instruction& i, int lane) {
  const int size = i.type.size, bytes = size * static_cast<int>(i.to.size());
  const uint64_t address = value(i, 0, lane) + i.offset;
  const unsigned char* from;
  if (i.op == Op::load_param) {
    const uint64_t begin = reinterpret_cast<uint64_t>(cluster_.launch().parameters);
    if (address < begin || address + bytes > begin + kernel_.parameter_bytes) fail("reads beyond its parameters", lane);
    from = reinterpret_cast<const unsigned char*>(address);
  } else {
    from = find(value(i, 1, lane) ? (address & 0xffffffff) | kSharedWindow : address, bytes, false, lane);
  }
  for (size_t m = 0; m < i.to.size(); ++m, from += size) {
    uint64_t bits = 0;
    std::memcpy(&bits, from, size);
    if (i.type.kind == Kind::sint && size < 4)
      bits = static_cast<uint32_t>(static_cast<int32_t>(bits << (32 - 8 * size)) >> (32 - 8 * size));
    slots_[i.to[m]][lane] = bits;
  }
}

void Warp::store(const Instruction& i, int lane) {
  const int size = i.type.size, parts = static_cast<int>(i.from.size()) - 2;
  const uint64_t address = value(i, 0, lane) + i.offset;
  unsigned char* to =
      find(value(i, 1, lane) ? (address & 0xffffffff) | kSharedWindow : address, size * parts, true, lane);
  for (int m = 0; m < parts; ++m) std::memcpy(to + m * size, &slots_[i.from[2 + m]][lane], size);
}

void Warp::add(const Instruction& i, int lane) {
  const uint64_t address = value(i, 0, lane) + i.offset;
  if (value(i, 1, lane) || address & kSharedWindow) fail("expected atomics in global memory", lane);
  if (i.type.kind == Kind::real) fail("expected atomics of integers", lane);
  unsigned char* to = find(address, i.type.size, true, lane);
  uint64_t before = 0;
  std::memcpy(&before, to, i.type.size);
  const uint64_t after = before + value(i, 2, lane);
  std::memcpy(to, &after, i.type.size);
  slots_[i.to[0]][lane] = before;
}

void Warp::memory(const Instruction& i, uint32_t lanes) {
  for (int l = 0; l < kLanes; ++l) {
    if (!(lanes >> l & 1)) continue;
    switch (i.op) {
      case Op::load:
      case Op::load_param:
        load(i, l);
        break;
      case Op::store:
        store(i, l);
        break;
      case Op::atom_add:
        add(i, l);
        break;
      case Op::map_address: {
        const uint64_t rank = value(i, 1, l) & 0xffffffff;
        if (rank >= cluster_.blocks()) fail("maps an address to block " + std::to_string(rank), l);
        slots_[i.to[0]][l] = (value(i, 0, l) & 0xffffff) | (rank + 1) << 24;
        break;
      }
      case Op::barrier_init:
        cluster_.initialise(value(i, 0, l) + i.offset, block_, static_cast<uint32_t>(value(i, 1, l)));
        break;
      case Op::barrier_arrive:
      case Op::barrier_expect: {
        const int64_t bytes = i.op == Op::barrier_expect ? static_cast<int64_t>(value(i, 1, l) & 0xffffffff) : 0;
        try {
          cluster_.arrive(cluster_.barrier(value(i, 0, l) + i.offset, block_), 1, bytes, clocks);
        } catch (const std::exception& error) {
          fail(error.what(), l);
        }
        tick();
        break;
      }
      case Op::copy_tensor:
        copy_tensor(i, l);
        break;
      case Op::copy_word:
        words_[l].push_back({value(i, 0, l), value(i, 1, l), (value(i, 2, l) & 0xffffffff) == 4});
        if (cluster_.odd()) copy_words(l);
        break;
      case Op::copy_wait:
        copy_words(l);
        break;
      default:
        fail("an instruction that the machine does not know", l);
    }
  }
}

void Warp::copy_words(int lane) {
  for (const WordCopy& copy : words_[lane]) {
    uint32_t word = 0;
    if (copy.exists) std::memcpy(&word, find(copy.from, 4, false, lane), 4);
    std::memcpy(find((copy.to & 0xffffffff) | kSharedWindow, 4, true, lane), &word, 4);
  }
  words_[lane].clear();
}

void Warp::copy_tensor(const Instruction& i, int lane) {
  Cluster::Copy copy{};
  std::memcpy(&copy.map, reinterpret_cast<const void*>(value(i, 1, lane)), sizeof copy.map);
  if (copy.map.magic != TensorMap::kMagic) fail("expected the address of a tensor map", lane);
  if (copy.map.rank != i.from.size() - 4) fail("expected coordinates of as many dimensions as the map has", lane);
  for (uint32_t d = 0; d < copy.map.rank; ++d) copy.coordinates[d] = static_cast<int32_t>(value(i, 4 + d, lane));
  copy.to = static_cast<uint32_t>(value(i, 0, lane));
  copy.barrier = static_cast<uint32_t>(value(i, 2, lane));
  copy.issuer = number_;
  copy.clocks = clocks;
  const uint64_t receivers = i.multicast ? value(i, 3, lane) & 0xffff : 1ull << block_;
  if (receivers >> cluster_.blocks()) fail("sends to blocks that the cluster does not have", lane);
  for (size_t b = 0; b < cluster_.blocks(); ++b)
    if (receivers >> b & 1) {
      copy.block = static_cast<int>(b);
      cluster_.begin(copy);
    }
  tick();
}

// -------------------------------------------------------------------------------------------------- between lanes

void Warp::shuffle(const Instruction& i, uint32_t lanes) {
  uint64_t result[kLanes];
  bool inside[kLanes];
  for (int l = 0; l < kLanes; ++l) {
    if (!(lanes >> l & 1)) continue;
    const uint32_t b = static_cast<uint32_t>(value(i, 1, l)) & 31, c = static_cast<uint32_t>(value(i, 2, l));
    const uint32_t segment = c >> 8 & 31, clamp = c & 31, lane = static_cast<uint32_t>(l);
    const uint32_t most = (lane & segment) | (clamp & ~segment), least = lane & segment;
    int64_t source = 0;
    switch (i.exchange) {
      case Exchange::butterfly:
        source = lane ^ b;
        break;
      case Exchange::index:
        source = least | (b & ~segment);
        break;
      case Exchange::down:
        source = lane + b;
        break;
      default:
        source = static_cast<int64_t>(lane) - b;
    }
    inside[l] = i.exchange == Exchange::up ? source >= most : source <= most;
    if (!inside[l]) source = lane;
    if (!(lanes >> source & 1)) fail("takes the value of a lane that does not take part", l);
    result[l] = value(i, 0, static_cast<int>(source)) & 0xffffffff;
  }
  for (int l = 0; l < kLanes; ++l)
    if (lanes >> l & 1) {
      slots_[i.to[0]][l] = result[l];
      if (i.to.size() > 1) slots_[i.to[1]][l] = inside[l];
    }
}

void Warp::vote(const Instruction& i, uint32_t lanes) {
  uint32_t holds = 0;
  for (int l = 0; l < kLanes; ++l)
    if (lanes >> l & 1) holds |= static_cast<uint32_t>(value(i, 0, l) & 1) << l;
  const uint64_t result = i.vote == Vote::ballot ? holds : i.vote == Vote::any ? holds != 0 : holds == lanes;
  for (int l = 0; l < kLanes; ++l)
    if (lanes >> l & 1) slots_[i.to[0]][l] = result;
}

namespace {

float of_bfloat16(uint32_t bits) { return std::bit_cast<float>(bits << 16); }

}  // namespace

// D = A B' + C of 16 x 16 and 8 x 16, as the manual of PTX lays them out for mma.m16n8k16.
void Warp::mma(const Instruction& i) {
  double a[16][16], b[8][16];
  for (int l = 0; l < kLanes; ++l)
    for (int half = 0; half < 2; ++half) {
      const auto part = [&](size_t operand) {
        return of_bfloat16(static_cast<uint32_t>(value(i, operand, l)) >> (16 * half) & 0xffff);
      };
      const int row = l / 4, k = l % 4 * 2 + half;
      a[row][k] = part(0);
      a[row + 8][k] = part(1);
      a[row][k + 8] = part(2);
      a[row + 8][k + 8] = part(3);
      b[row][k] = part(4);
      b[row][k + 8] = part(5);
    }
  for (int l = 0; l < kLanes; ++l)
    for (int m = 0; m < 4; ++m) {
      double sum = std::bit_cast<float>(static_cast<uint32_t>(value(i, 6 + m, l)));
      for (int k = 0; k < 16; ++k) sum += a[l / 4 + m / 2 * 8][k] * b[l % 4 * 2 + m % 2][k];
      slots_[i.to[m]][l] = std::bit_cast<uint32_t>(static_cast<float>(sum));
    }
}

// This warp's 16 rows of D = A B' (+ D), 64 x 16 by columns x 16, from shared memory that descriptors tell of. The
// accumulators are there at once, which no kernel may rely on; the operands count as read until they are waited for.
void Warp::wgmma(const Instruction& i) {
  const int first_row = in_block() % 4 * 16;
  const Agent who = agent(Agent::kAllLanes);
  const auto read = [&](uint64_t descriptor, int row, float* to) {
    if (descriptor >> 62 != 1) fail("expected operands in swizzles of 128 bytes");
    if (descriptor >> 49 & 7) fail("expected operands that begin at a whole swizzle");
    const uint64_t begin = (descriptor & 0x3fff) << 4, step = (descriptor >> 32 & 0x3fff) << 4;
    for (int part = 0; part < 2; ++part) {
      uint64_t at = begin + row / 8 * step + row % 8 * 128 + part * 16;
      at ^= (at >> 7 & 7) << 4;
      const unsigned char* from = find_shared(at, 16, false, who, true);
      issued_.push_back({at, 16});
      for (int k = 0; k < 8; ++k) {
        uint16_t bits;
        std::memcpy(&bits, from + 2 * k, 2);
        to[part * 8 + k] = of_bfloat16(bits);
      }
    }
  };
  float a[16][16];
  std::vector<std::array<float, 16>> b(i.columns);
  for (int row = 0; row < 16; ++row) read(value(i, 0, 0), first_row + row, a[row]);
  for (int column = 0; column < i.columns; ++column) read(value(i, 1, 0), column, b[column].data());
  for (size_t m = 0; m < i.to.size(); ++m)
    for (int l = 0; l < kLanes; ++l) {
      const float* row = a[l / 4 + (m & 2) * 4];
      const auto& column = b[m / 4 * 8 + l % 4 * 2 + (m & 1)];
      double sum = value(i, 2, l) & 1 ? std::bit_cast<float>(static_cast<uint32_t>(slots_[i.to[m]][l])) : 0.0;
      for (int k = 0; k < 16; ++k) sum += static_cast<double>(row[k]) * column[k];
      slots_[i.to[m]][l] = std::bit_cast<uint32_t>(static_cast<float>(sum));
    }
}

void Warp::settle(size_t left_under_way) {
  for (; under_way_.size() > left_under_way; under_way_.pop_front())
    for (const Reading& reading : under_way_.front())
      find_shared(reading.at, reading.bytes, false, agent(Agent::kAllLanes));
}

}  // namespace repsim::ptx

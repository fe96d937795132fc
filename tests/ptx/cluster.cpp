#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "machine.h"

namespace repsim::ptx {

std::vector<Range>& allowed() {
  static std::vector<Range> ranges;
  return ranges;
}

Cluster::Cluster(const Launch& launch, unsigned first_block)
    : launch_(launch), first_block_(first_block), random_(launch.seed * 0x9e3779b97f4a7c15 + first_block) {
  const unsigned per_block = (launch.threads + kLanes - 1) / kLanes;
  if (per_block * launch.cluster > kMostAgents) throw std::runtime_error("[ptx] too many warps in a cluster");
  for (unsigned b = 0; b < launch.cluster; ++b) {
    blocks_.emplace_back(launch.kernel->static_shared + launch.dynamic_shared, b * per_block, per_block);
    for (unsigned w = 0; w < per_block; ++w)
      warps_.emplace_back(*this, static_cast<int>(b * per_block + w), b, w * kLanes, launch.threads - w * kLanes);
  }
  arrived_.resize(warps_.size());
}

void Cluster::run() {
  constexpr int64_t kInVain = 20000, kLoop = 64;  // turns; instructions of a loop that waits, at most
  while (std::any_of(warps_.begin(), warps_.end(), [](const Warp& warp) { return !warp.ended(); })) {
    if (!copies_.empty() && random_() % 8 == 0) {
      const size_t which = random_() % copies_.size();
      const Copy copy = copies_[which];
      copies_.erase(copies_.begin() + static_cast<long>(which));
      land(copy);
    }
    Warp& warp = warps_[random_() % warps_.size()];
    if (warp.ended() || warp.held()) {
      if (++turns_in_vain_ > kInVain && copies_.empty()) hang();
      continue;
    }
    const Warp::Turn turn = warp.run(1 + static_cast<int>(random_() % 400));
    if (turn == Warp::Turn::ended || (turn == Warp::Turn::spent && warp.since_spin() > kLoop))
      progress();
    else if (++turns_in_vain_ > kInVain && copies_.empty())
      hang();
  }
  if (!copies_.empty()) throw std::runtime_error("[ptx] " + launch_.kernel->name + " ends with copies under way");
}

void Cluster::hang() const {
  std::string what = "[ptx] " + launch_.kernel->name + ": all warps wait:";
  for (const Warp& warp : warps_)
    if (!warp.ended())
      what += "\n  block " + std::to_string(first_block_ + warp.block()) + " warp " + std::to_string(warp.in_block()) +
              ": " + warp.where();
  throw std::runtime_error(what);
}

// ---------------------------------------------------------------------------------------------------------- barriers

void Cluster::initialise(uint64_t address, int from_block, uint32_t count) {
  if (address >> 24) throw std::runtime_error("[ptx] a barrier of another block is initialised");
  if (address % 8) throw std::runtime_error("[ptx] a barrier is not aligned to 8 bytes");
  block(from_block).barriers[static_cast<uint32_t>(address)] = {count, count};
}

TransactionBarrier& Cluster::barrier(uint64_t address, int from_block) {
  const int owner = address >> 24 ? static_cast<int>(address >> 24) - 1 : from_block;
  Block& its = block(owner);
  const auto found = its.barriers.find(static_cast<uint32_t>(address & 0xffffff));
  if (found == its.barriers.end()) throw std::runtime_error("a barrier that was not initialised");
  if (its.left == its.warps) throw std::runtime_error("a barrier of a block that has left");
  return found->second;
}

void Cluster::arrive(TransactionBarrier& barrier, uint32_t arrivals, int64_t bytes, const Clocks& clocks) {
  if (barrier.pending < arrivals) throw std::runtime_error("more arrivals at a barrier than it expects");
  barrier.pending -= arrivals;
  barrier.bytes += bytes;
  barrier.arriving.join(clocks);
  progress();
  if (barrier.pending > 0 || barrier.bytes != 0) return;
  barrier.pending = barrier.expected;
  barrier.phase ^= 1;
  barrier.passed.join(barrier.arriving);
}

void Cluster::hold(Warp& warp, int barrier, int threads) {
  Meeting& meeting = meetings_[{warp.block(), barrier}];
  if (!meeting.warps.empty() && meeting.expected != threads)
    throw std::runtime_error("[ptx] " + launch_.kernel->name + ": a barrier with two numbers of threads");
  meeting.expected = threads;
  meeting.warps.push_back(&warp);
  progress();
  meet(meeting);
}

// A barrier without a number of threads waits for all that have not left.
void Cluster::meet(Meeting& meeting) {
  if (meeting.warps.empty()) return;
  const Block& its = block(meeting.warps.front()->block());
  const size_t expected = meeting.expected ? meeting.expected / kLanes : its.warps - its.left;
  if (meeting.warps.size() < expected) return;
  Clocks all;
  for (const Warp* warp : meeting.warps) all.join(warp->clocks);
  for (Warp* warp : std::exchange(meeting.warps, {})) {
    warp->clocks.join(all);
    warp->tick();
    warp->pass_barrier();
  }
}

void Cluster::arrive_cluster(Warp& warp) {
  if (arrived_[warp.number()])
    throw std::runtime_error("[ptx] " + launch_.kernel->name + ": a warp arrives twice at a barrier of the cluster");
  arrived_[warp.number()] = true;
  cluster_arriving_.join(warp.clocks);
  warp.tick();
  progress();
}

void Cluster::hold_cluster(Warp& warp) {
  cluster_waits_.push_back(&warp);
  progress();
  meet_cluster();
}

void Cluster::meet_cluster() {
  size_t left = 0, arrived = 0;
  for (const Warp& warp : warps_)
    if (arrived_[warp.number()])
      ++arrived;
    else
      left += warp.ended();
  if (cluster_waits_.empty() || arrived + left < warps_.size()) return;
  // Every warp that arrived waits before it arrives again, so all of them are here or on their way.
  if (cluster_waits_.size() + left < warps_.size()) return;
  arrived_.assign(warps_.size(), false);
  cluster_passed_.join(cluster_arriving_);
  for (Warp* warp : std::exchange(cluster_waits_, {})) {
    warp->clocks.join(cluster_passed_);
    warp->pass_barrier();
  }
}

void Cluster::left(Warp& warp) {
  Block& its = block(warp.block());
  if (++its.left == its.warps)
    for (const Copy& copy : copies_)
      if (copy.block == warp.block())
        throw std::runtime_error("[ptx] " + launch_.kernel->name +
                                 ": a block leaves before what is copied to it is there");
  for (auto& [key, meeting] : meetings_)
    if (key.first == warp.block() && meeting.expected == 0) meet(meeting);
  meet_cluster();
  progress();
}

// ------------------------------------------------------------------------------------------------------------ copies

// The box of a map at some coordinates, row by row of its first dimension; 0 outside of the tensor.
void Cluster::land(const Copy& copy) {
  const TensorMap& map = copy.map;
  Block& to = block(copy.block);
  const auto fail = [&](const std::string& what) {
    throw std::runtime_error("[ptx] " + launch_.kernel->name + ", a tensor copy to block " +
                             std::to_string(first_block_ + copy.block) + ": " + what);
  };
  if (to.left == to.warps) fail("the block has left");
  if (copy.to % 128) fail("shared memory that is not aligned to 128 bytes");
  const uint64_t row_bytes = static_cast<uint64_t>(map.box[0]) * map.element_bytes;
  if (map.swizzle_bytes != 128 || row_bytes > 128)
    fail("expected boxes of rows of up to 128 bytes, in swizzles of as many");
  uint64_t rows = 1;
  for (uint32_t d = 1; d < map.rank; ++d) rows *= map.box[d];
  const Agent who{copy.issuer, Agent::kCopyEngine, 0, &copy.clocks};
  for (uint64_t row = 0; row < rows; ++row) {
    const unsigned char* from = map.data;
    bool inside = true;
    uint64_t rest = row;
    for (uint32_t d = 1; d < map.rank; ++d) {
      const int64_t at = copy.coordinates[d] + static_cast<int64_t>(rest % map.box[d]);
      rest /= map.box[d];
      inside &= at >= 0 && static_cast<uint64_t>(at) < map.sizes[d];
      from += at * static_cast<int64_t>(map.strides[d - 1]);
    }
    for (uint64_t byte = 0; byte < row_bytes; byte += 16) {
      unsigned char chunk[16] = {};
      for (uint64_t b = 0; b < 16; b += map.element_bytes) {
        const int64_t k = copy.coordinates[0] + static_cast<int64_t>((byte + b) / map.element_bytes);
        if (inside && k >= 0 && static_cast<uint64_t>(k) < map.sizes[0])
          std::memcpy(chunk + b, from + k * map.element_bytes, map.element_bytes);
      }
      uint64_t at = copy.to + row * 128 + byte;
      at ^= (at >> 7 & 7) << 4;
      if (at < kSharedBegin || at - kSharedBegin + 16 > to.shared.size()) fail("beyond the shared memory");
      const std::string race = to.history.write(at - kSharedBegin, 16, who, to.first_warp);
      if (!race.empty()) fail(race + ", with no barrier between");
      std::memcpy(to.shared.data() + (at - kSharedBegin), chunk, 16);
    }
  }
  TransactionBarrier& barrier = this->barrier(copy.barrier, copy.block);
  arrive(barrier, 0, -static_cast<int64_t>(rows * row_bytes), copy.clocks);
}

// ------------------------------------------------------------------------------------------------------------ launch

void execute(const Launch& launch) {
  if (launch.blocks % launch.cluster) throw std::runtime_error("[ptx] blocks that are no whole clusters");
  std::vector<unsigned> order(launch.blocks / launch.cluster);
  std::iota(order.begin(), order.end(), 0u);
  std::mt19937_64 random(launch.seed);
  std::shuffle(order.begin(), order.end(), random);
  for (const unsigned cluster : order) Cluster(launch, cluster * launch.cluster).run();
}

}  // namespace repsim::ptx

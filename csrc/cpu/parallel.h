// Work items dealt to threads one at a time; the calling thread works too.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace repsim::cpu {

// Calls work(item) for every item in [0, items), in any order. `worker_state()` builds what one thread keeps
// between items. The first exception stops the dealing and is rethrown here. A thread that the system refuses is done
// without: the others take its items, and no result depends on how many there are.
template <class MakeState, class Work>
void parallel(int64_t items, int threads, MakeState worker_state, Work work) {
  std::atomic<int64_t> next{0};
  std::exception_ptr failure;
  std::mutex failure_guard;
  auto run = [&] {
    try {
      auto state = worker_state();
      for (int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < items;) work(item, state);
    } catch (...) {
      next.store(items);
      std::lock_guard lock(failure_guard);
      if (!failure) failure = std::current_exception();
    }
  };
  const int64_t extra = std::max<int64_t>(std::min<int64_t>(threads, items) - 1, 0);
  std::vector<std::thread> helpers;
  helpers.reserve(extra);
  try {
    for (int64_t t = 0; t < extra; ++t) helpers.emplace_back(run);
  } catch (const std::system_error&) {
  } catch (const std::bad_alloc&) {
  }
  run();
  for (auto& helper : helpers) helper.join();
  if (failure) std::rethrow_exception(failure);
}

template <class Work>
void parallel(int64_t items, int threads, Work work) {
  parallel(items, threads, [] { return 0; }, [&](int64_t item, int&) { work(item); });
}

}  // namespace repsim::cpu

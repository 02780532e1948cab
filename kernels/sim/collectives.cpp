// kernels/sim/collectives.cpp -- what threads do together: barriers and warp-wide instructions
#include "kernels/device/gpu_sim.h"
#include "kernels/sim/engine.h"
#include "kernels/sim/report.h"

namespace avid::kernels::simulator {

void sync_block(Site site) { engine().barrier(Reduce::count, false, site); }

int sync_block_reduce(Reduce op, int predicate, Site site) { return engine().barrier(op, predicate != 0, site); }

void warp_collective(const Collective& what, std::uint32_t mask, void* argument, Site site) {
  Engine& e = engine();
  Thread& thread = e.current();
  Warp& warp = e.warp(thread.warp());
  const unsigned lane = thread.lane();
  if ((mask >> lane & 1u) == 0)
    fail(ErrorKind::divergent_warp, std::string(what.name) + ": the calling lane is not in its own mask", site);
  if (what.whole_warp && warp.alive != ~0u)
    fail(
        ErrorKind::dead_lane, std::string(what.name) + " needs all 32 lanes of the warp; some finished or do not exist",
        site);
  if ((mask & ~warp.alive) != 0)
    fail(ErrorKind::dead_lane, std::string(what.name) + ": the mask names lanes that finished or do not exist", site);

  std::uint32_t i = 0;
  while (i < warp.num_pending && (warp.pending[i].mask & mask) == 0) ++i;
  PendingCollective& pending = warp.pending[i];
  if (i == warp.num_pending) {
    ++warp.num_pending;
    pending.what = &what;
    pending.mask = mask;
    pending.arrived = 0;
    pending.site = site;
  } else if (pending.what != &what || pending.mask != mask || !same_site(pending.site, site)) {
    fail(
        ErrorKind::divergent_warp,
        std::string("lanes of one warp are in different collectives: this in ") + what.name + ", others in " +
            pending.what->name + " at " + text_of(pending.site),
        site);
  }
  pending.argument[lane] = argument;
  pending.arrived |= 1u << lane;
  if (pending.arrived != mask) {
    e.suspend(Status::in_collective, site);
    return;
  }
  what.run(pending.argument, mask);
  if (--warp.num_pending != i) pending = warp.pending[warp.num_pending];
  if (&what == &sim::detail::kSyncWarp) e.races.warp_barrier(thread.warp(), mask, mask == warp.alive);
  if (const std::uint32_t others = mask & ~(1u << lane); others != 0) e.make_ready(thread.warp(), others);
}

}  // namespace avid::kernels::simulator

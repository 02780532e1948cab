// kernels/ptx/warp.cpp -- see warp.h; which lanes run, and until when
//
// A warp's lanes run along paths, each with an instruction to come. The path that is furthest back runs, up to where
// the next one stands, which it joins: so lanes that a branch parted meet again as early as they can. A collective
// waits until the lanes of its mask have all come to it.
#include "kernels/ptx/warp.h"

#include <algorithm>

namespace avid::kernels::ptx {

void Warp::begin(Block& block, std::uint32_t index) {
  block_ = &block;
  code_ = block.kernel->code.get();
  index_ = index;
  shared_ = block.shared.data();
  shared_bytes_ = block.shared.size();
  const std::uint32_t first = index * kLanes, count = std::min<std::uint32_t>(kLanes, block.num_threads - first);
  existing_ = count == kLanes ? kAllLanes : (1u << count) - 1;
  mask_ = existing_;
  file_.resize(std::size_t{code_->num_places + 2} * kLanes);
  product_at_.assign(code_->num_places + 2, 0);
  open_products_ = 1;
  has_products_ = false;
  predicates_.assign(code_->num_predicates + 1, 0);
  paths_.assign(1, Path{.at = 0, .lanes = existing_});
  for (const Constant& constant : code_->constants)
    for (int lane = 0; lane < kLanes; ++lane)
      if (constant.wide)
        lanes<std::uint64_t>(constant.place)[lane] = constant.value;
      else
        lanes<std::uint32_t>(constant.place)[lane] = static_cast<std::uint32_t>(constant.value);
  for (const SpecialValue& special : code_->specials) set_special(special);
  for (ThreadCopies& copies : copies_) copies = {};
}

void Warp::set_special(const SpecialValue& special) {
  const Block& b = *block_;
  for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
    const std::uint32_t thread = index_ * kLanes + lane;
    std::uint32_t v = 0;
    switch (special.value) {
      case Special::tid_x: v = thread % b.size.x; break;
      case Special::tid_y: v = thread / b.size.x % b.size.y; break;
      case Special::tid_z: v = thread / b.size.x / b.size.y; break;
      case Special::ntid_x: v = b.size.x; break;
      case Special::ntid_y: v = b.size.y; break;
      case Special::ntid_z: v = b.size.z; break;
      case Special::ctaid_x: v = b.index.x; break;
      case Special::ctaid_y: v = b.index.y; break;
      case Special::ctaid_z: v = b.index.z; break;
      case Special::nctaid_x: v = b.grid.x; break;
      case Special::nctaid_y: v = b.grid.y; break;
      case Special::nctaid_z: v = b.grid.z; break;
      case Special::laneid: v = lane; break;
      case Special::zero: break;
    }
    lanes<std::uint32_t>(special.place)[lane] = v;
  }
}

/// The ready path that is furthest back becomes the current one; paths that stand at one instruction become one.
bool Warp::choose() {
  std::sort(paths_.begin(), paths_.end(), [](const Path& a, const Path& b) { return a.at < b.at; });
  for (std::size_t k = 0; k + 1 < paths_.size();) {
    Path &a = paths_[k], &b = paths_[k + 1];
    if (a.at == b.at && a.state != Path::State::at_barrier && b.state != Path::State::at_barrier) {
      a.lanes |= b.lanes;
      a.state = Path::State::ready;
      paths_.erase(paths_.begin() + static_cast<std::ptrdiff_t>(k) + 1);
    } else {
      ++k;
    }
  }
  for (current_ = 0; current_ < paths_.size(); ++current_)
    if (paths_[current_].state == Path::State::ready) return true;
  return false;
}

void Warp::run() {
  while (choose()) run_path();
  for (Path& path : paths_)
    if (path.state == Path::State::looking) path.state = Path::State::ready;
}

void Warp::run_path() {
  Path& path = paths_[current_];
  const std::vector<Instruction>& instructions = code_->instructions;
  std::uint32_t limit = static_cast<std::uint32_t>(instructions.size());
  for (const Path& other : paths_)
    if (other.at > path.at) limit = std::min(limit, other.at);
  using Kind = Instruction::Kind;
  for (;;) {
    if (path.at >= instructions.size()) {
      mask_ = path.lanes;
      fail("a path that runs past the kernel's end");
    }
    const Instruction& i = instructions[path.at];
    instruction_ = &i;
    mask_ = path.lanes;
    if (i.guarded) mask_ &= i.guard_is_not ? ~predicate(i.guard) : predicate(i.guard);
    if (has_products_ && mask_ != 0) check_products(i);
    switch (i.kind) {
      case Kind::plain:
        if (mask_ != 0) i.action(*this, i);
        break;
      case Kind::look:
        if (mask_ != 0) {
          look_failed_ = false;
          i.action(*this, i);
          if (look_failed_) {  // its turn is over; it goes on behind the look when it has one again
            ++path.at;
            path.state = Path::State::looking;
            return;
          }
          block_->progress = true;
        }
        break;
      case Kind::branch:
        if (mask_ == path.lanes) {
          path.at = i.target;
          if (i.target <= static_cast<std::uint32_t>(&i - instructions.data()) || path.at >= limit) return;
          continue;
        }
        if (mask_ != 0) {
          path.lanes &= ~mask_;
          ++path.at;
          paths_.push_back(Path{.at = i.target, .lanes = mask_});
          return;
        }
        break;
      case Kind::exit: {
        if (mask_ == 0) break;
        finish_copies(*this, mask_);
        block_->num_alive -= static_cast<std::uint32_t>(std::popcount(mask_));
        block_->progress = true;
        path.lanes &= ~mask_;
        ++path.at;
        if (path.lanes == 0) paths_.erase(paths_.begin() + static_cast<std::ptrdiff_t>(current_));
        return;
      }
      case Kind::barrier:
        if (mask_ != path.lanes) fail("a guarded barrier");
        block_->num_at_barrier += static_cast<std::uint32_t>(std::popcount(mask_));
        block_->progress = true;
        ++path.at;
        path.state = Path::State::at_barrier;
        return;
      case Kind::collective:
      case Kind::whole_warp: {
        if (mask_ == 0) break;
        std::uint32_t members = kAllLanes;
        if (i.kind == Kind::collective && i.num_from > 0) members = uniform<std::uint32_t>(i.from[i.num_from - 1]);
        if (i.kind == Kind::whole_warp && existing_ != kAllLanes) fail("an instruction of whole warps in part of one");
        members &= existing_;
        if ((mask_ & members) != members) {  // the others are to come
          path.state = Path::State::at_collective;
          return;
        }
        if (mask_ != members) {  // lanes that the mask leaves out
          fail("a collective whose mask leaves out lanes that execute it");
        }
        i.action(*this, i);
        block_->progress = true;
        break;
      }
    }
    if (++path.at >= limit) return;
  }
}

void Warp::begin_product(const Instruction& instruction) {
  has_products_ = true;
  for (int k = 0; k < instruction.num_to; ++k) product_at_[instruction.to[k]] = open_products_;
}

void Warp::wait_products(std::uint32_t groups_still) {
  has_products_ = false;
  for (std::uint32_t& group : product_at_) {
    if (group != 0 && group + groups_still < open_products_) group = 0;
    has_products_ |= group != 0;
  }
}

void Warp::check_products(const Instruction& i) {
  if (i.moves) {
    product_at_[i.to[0]] = product_at_[i.from[0]];
    return;
  }
  for (int k = 0; k < i.num_from; ++k)
    if ((i.from[k] & kPredicate) == 0 && product_at_[i.from[k]] != 0)
      fail("reads a sum of a product that no wait has covered");
  if (!i.adds)
    for (int k = 0; k < i.num_to; ++k)
      if ((i.to[k] & kPredicate) == 0) product_at_[i.to[k]] = 0;
}

void Warp::release_barrier() {
  for (Path& path : paths_)
    if (path.state == Path::State::at_barrier) path.state = Path::State::ready;
}

unsigned char* Warp::any_memory(char space, std::uint64_t address, std::uint32_t bytes, int lane, bool writes) {
  const auto refuse = [&](const char* where) {
    fail(
        std::string(writes ? "writes " : "reads ") + std::to_string(bytes) + " bytes at " + std::to_string(address) +
            " of " + where,
        lane);
  };
  if (bytes == 0 || (bytes & (bytes - 1)) != 0 || address % bytes != 0) refuse("memory, misaligned");
  if (space == ' ') {
    const std::uint64_t window = address & kWindowMask;
    space = window == 0 ? 'g' : window == kSharedWindow ? 's' : window == kLocalWindow ? 'l' : 'p';
    address &= ~kWindowMask;
  }
  Block& b = *block_;
  switch (space) {
    case 's':
      if (address + bytes > b.shared.size()) refuse("shared memory, behind its end");
      return b.shared.data() + address;
    case 'l': {
      const std::size_t size = code_->local_bytes;
      if (address + bytes > size) refuse("local memory, behind its end");
      return b.local.data() + size * thread_of(lane) + address;
    }
    case 'p':
      if (writes || address + bytes > b.kernel->parameter_bytes) refuse("parameters");
      return const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(b.parameters)) + address;
    default: {
      auto* at = reinterpret_cast<unsigned char*>(address);
      if ((address & kWindowMask) != 0 || address < 4096) refuse("device memory, where nothing is");
      if (b.machine->in_device_memory != nullptr && !b.machine->in_device_memory(at, bytes)) {
        for (const auto& [begin, size] : code_->globals->memory)
          if (at >= begin && at + bytes <= begin + size) return at;
        refuse("device memory, outside of every allocation");
      }
      return at;
    }
  }
}

void Warp::fail(const std::string& what, int lane) const {
  if (lane < 0) lane = std::countr_zero(mask_);
  const std::uint32_t thread = thread_of(lane);
  const Block& b = *block_;
  const auto text = [](std::uint32_t x, std::uint32_t y, std::uint32_t z) {
    return "(" + std::to_string(x) + "," + std::to_string(y) + "," + std::to_string(z) + ")";
  };
  std::string source;
  if (const auto file = code_->files.find(instruction_->source_file); file != code_->files.end())
    source =
        " at " + file->second.substr(file->second.rfind('/') + 1) + ":" + std::to_string(instruction_->source_line);
  throw PtxError(
      "ptx: " + b.kernel->name + ": block " + text(b.index.x, b.index.y, b.index.z) + " thread " +
      text(thread % b.size.x, thread / b.size.x % b.size.y, thread / b.size.x / b.size.y) + source + ", PTX line " +
      std::to_string(instruction_->line) + ": " + what);
}

std::string Warp::whereabouts() const {
  std::string out;
  for (const Path& path : paths_) {
    const Instruction& i = code_->instructions[path.state == Path::State::at_barrier ? path.at - 1 : path.at];
    out += (out.empty() ? "warp " : ", ") + std::to_string(index_) + ": " + std::to_string(std::popcount(path.lanes)) +
           (path.state == Path::State::at_barrier      ? " at bar.sync"
            : path.state == Path::State::at_collective ? " at a collective"
                                                       : " at an mbarrier") +
           " of PTX line " + std::to_string(i.line);
  }
  return out;
}

}  // namespace avid::kernels::ptx

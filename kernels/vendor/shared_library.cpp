// kernels/vendor/shared_library.cpp -- dlopen with a message that helps
#include "kernels/vendor/shared_library.h"

#include <dlfcn.h>

namespace avid::kernels::vendor {

SharedLibrary::SharedLibrary(Family family, const std::string& file) : family_(family), file_(file) {
  handle_ = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  const char* why = handle_ == nullptr ? dlerror() : nullptr;
  const std::string reason = why != nullptr ? why : "";
  if (handle_ == nullptr) handle_ = dlopen(("/usr/local/cuda/lib64/" + file).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle_ == nullptr)
    throw LibraryError(
        std::string(name_of(family)) + ": " + library_of(family) + " cannot be loaded: " + reason +
        " | install it or put its folder on LD_LIBRARY_PATH, or use --" + name_of(family) + " native");
}

void* SharedLibrary::symbol(const char* name) const {
  void* address = dlsym(handle_, name);
  if (address == nullptr)
    throw LibraryError(
        std::string(name_of(family_)) + ": " + file_ + " has no " + name + " | it is too old; use --" +
        name_of(family_) + " native");
  return address;
}

}  // namespace avid::kernels::vendor

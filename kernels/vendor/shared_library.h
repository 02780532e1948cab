// kernels/vendor/shared_library.h -- a library that is loaded when it is first asked for
//
// cuBLASLt and cuDNN are hundreds of megabytes, and most runs need neither: the program starts without them.
#pragma once

#include <string>

#include "kernels/vendor/route.h"

namespace avid::kernels::vendor {

/// Opens `file` ("libcudnn.so.9") the way the loader does: LD_LIBRARY_PATH, the system's folders, then the toolkit's
/// usual place. Stays open to the end of the process. Throws LibraryError, naming the family, the file and the way out.
class SharedLibrary {
 public:
  SharedLibrary(Family family, const std::string& file);
  /// The function `name`; LibraryError when the library has none.
  template <class Function>
  void find(Function& function, const char* name) const {
    function = reinterpret_cast<Function>(symbol(name));
  }

 private:
  void* symbol(const char* name) const;

  Family family_;
  std::string file_;
  void* handle_ = nullptr;
};

}  // namespace avid::kernels::vendor

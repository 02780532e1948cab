// tensor/io/booleans.cpp -- the file's own name of its element type tells
#include "tensor/io/booleans.h"

#include "tensor/error.h"
#include "tensor/io/atomic_file.h"

namespace avid {

void check_no_booleans(const TensorFile& file, const std::string& name) {
  const std::string& type = file.info(name).file_dtype;
  check<DTypeError>(
      type != "|b1" && type != "BOOL" && type.find("BoolStorage") == std::string::npos,
      "{}: tensor '{}': expected numbers, got booleans ({}) | store frames as uint8 0..255, actions as int64",
      printable(file.path().string(), 400), printable(name), type);
}

}  // namespace avid

// tensor/io/booleans.h -- refuses arrays of True and False where frames or numbers of actions are meant
#pragma once

#include <string>

#include "tensor/io/tensor_file.h"

namespace avid {

/// Booleans load as u8 0 and 1, which is right for flags; as frames they would be a black video without a word.
/// Errors   DTypeError when the tensor holds booleans; FileError when there is no tensor of this name.
void check_no_booleans(const TensorFile& file, const std::string& name);

}  // namespace avid

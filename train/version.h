// train/version.h -- which program made a run
#pragma once

#include <string>

namespace avid::train {

/// "0.1.0"
std::string program_version();
/// The commit the program was built from, or "unknown".
std::string program_commit();

}  // namespace avid::train

// train/report.h -- plots/*.svg and report.html: one page that opens offline
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "train/run_log.h"

namespace avid::train {

struct RunInfo;
struct RunState;
struct TrainConfig;

/// Writes RUN/plots/{loss,grad_norm,lr,mask,clips_per_s}.svg and RUN/report.html with these plots, the newest samples,
/// and the configuration inside it. Errors: FileError.
void write_run_report(
    const std::filesystem::path& run, const TrainConfig& config, const RunInfo& info, const RunState& state,
    const std::string& description, const std::vector<LogRecord>& records);

std::string base64(const std::string& bytes);

}  // namespace avid::train

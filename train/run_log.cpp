// train/run_log.cpp -- see run_log.h
#include "train/run_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>

#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/json.h"
#include "train/tensorboard.h"

namespace avid::train {
namespace {

std::string csv_header() {
  std::string line = "update,time";
  for (const std::string& name : csv_columns()) line += "," + name;
  return line + "\n";
}

// Empty for lines without numbers: they are in log.jsonl.
std::string csv_line(const LogRecord& record) {
  if (record.values.empty()) return {};
  std::string line = fmt::format("{},{:.3f}", record.update, record.unix_time);
  for (const std::string& name : csv_columns()) {
    const double v = record.value(name);
    line += std::isfinite(v) ? fmt::format(",{}", v) : ",";
  }
  return line + "\n";
}

std::string events_frame(const LogRecord& record) {
  if (record.values.empty()) return {};
  return tensorboard_scalars(record.unix_time, record.update, record.values);
}

}  // namespace

const std::vector<std::string>& csv_columns() {
  static const std::vector<std::string> columns = {
      "train/loss",     "train/grad_norm", "train/lr",   "train/mask_mean", "train/mask_std", "train/mask_min",
      "train/mask_max", "clips_per_s",     "memory_mib", "val/loss",        "val/mask_mean",  "val/mask_std",
      "val/mask_min",   "val/mask_max",    "train/acc",  "val/acc"};
  return columns;
}

std::string LogRecord::to_json() const {
  Json line;
  line["update"] = update;
  line["time"] = std::round(unix_time * 1000) / 1000;
  if (!event.empty()) line["event"] = event;
  for (const auto& [name, v] : values) line[name] = v;  // nlohmann writes null for NaN and infinities
  return json_text(line);
}

LogRecord LogRecord::from_json(const std::string& text) {
  const auto line = parse_json(text);
  check(
      line.is_object() && line.contains("update") && line["update"].is_number_integer() && line.contains("time") &&
          line["time"].is_number(),
      "log: expected a line with update and time, got {}", printable(text));
  LogRecord record;
  for (const auto& [name, v] : line.items()) {
    if (name == "update")
      record.update = v.get<std::int64_t>();
    else if (name == "time")
      record.unix_time = v.get<double>();
    else if (name == "event" && v.is_string())
      record.event = v.get<std::string>();
    else
      record.values.emplace_back(name, v.is_number() ? v.get<double>() : std::numeric_limits<double>::quiet_NaN());
  }
  return record;
}

double LogRecord::value(const std::string& name) const {
  for (const auto& [key, v] : values)
    if (key == name) return v;
  return std::numeric_limits<double>::quiet_NaN();
}

RunLog::RunLog(std::filesystem::path folder, std::int64_t last_update, bool tensorboard) : folder_(std::move(folder)) {
  double first_time = 0;
  if (std::filesystem::exists(folder_ / "log.jsonl")) {
    std::istringstream lines(read_text(folder_ / "log.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      try {
        LogRecord record = LogRecord::from_json(line);
        if (first_time == 0) first_time = record.unix_time;
        if (record.update <= last_update) records_.push_back(std::move(record));
      } catch (const Error&) {
        break;  // torn by a crash; what follows cannot be there
      }
    }
  }
  std::string json, csv = csv_header(), events = tensorboard_header(first_time);
  for (const LogRecord& record : records_)
    json += record.to_json() + "\n", csv += csv_line(record), events += events_frame(record);
  open_output(json_, "log.jsonl", json);
  open_output(csv_, "log.csv", csv);
  if (tensorboard) open_output(events_, "events.out.tfevents.0000000000.avid", events);
}

RunLog::~RunLog() {
  for (const Output* output : {&json_, &csv_, &events_})
    if (output->file >= 0) close(output->file);
}

void RunLog::open_output(Output& output, const std::string& name, const std::string& content) {
  output.path = folder_ / name;
  write_text_atomic(output.path, content);
  output.file = open(output.path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  check<FileError>(output.file >= 0, "log: {}: {} | check the folder", output.path.string(), std::strerror(errno));
}

void RunLog::write(Output& output, const std::string& text) {
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t written = ::write(output.file, text.data() + done, text.size() - done);
    if (written < 0 && errno == EINTR) continue;
    check<FileError>(
        written > 0, "log: {}: {} | free some space, then go on with: avid train --resume {}", output.path.string(),
        std::strerror(errno), folder_.string());
    done += static_cast<std::size_t>(written);
  }
}

void RunLog::append(LogRecord record) {
  write(json_, record.to_json() + "\n");
  write(csv_, csv_line(record));
  if (events_.file >= 0) write(events_, events_frame(record));
  records_.push_back(std::move(record));
}

}  // namespace avid::train

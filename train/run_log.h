// train/run_log.h -- the numbers of a run: log.jsonl is the record, log.csv and TensorBoard events derive from it
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace avid::train {

/// One line. Values that are not finite become null.
struct LogRecord {
  std::int64_t update = 0;  // updates done
  double unix_time = 0;
  std::vector<std::pair<std::string, double>> values;  // "train/loss", "val/mask_mean", ...
  std::string event;                                   // for things that are not numbers; empty otherwise

  /// {"update": 10, "time": 1.7e9, "train/loss": 0.5}
  std::string to_json() const;
  /// Throws Error when the text is not such a line.
  static LogRecord from_json(const std::string& line);
  /// NaN when there is no such value.
  double value(const std::string& name) const;
};

/// Appends records; each is on its way to the disk when append() returns.
class RunLog {
 public:
  /// Opens the logs in `folder` and forgets every record past `last_update`: after a crash the lines may be ahead of
  /// the checkpoint, and the last one may be torn. CSV and events are written anew from what stays.
  /// Errors   FileError.
  RunLog(std::filesystem::path folder, std::int64_t last_update, bool tensorboard);
  ~RunLog();
  RunLog(const RunLog&) = delete;
  RunLog& operator=(const RunLog&) = delete;

  /// Throws FileError (disk full, ...); the record is then not in records().
  void append(LogRecord record);
  const std::vector<LogRecord>& records() const { return records_; }

 private:
  struct Output {
    std::filesystem::path path;
    int file = -1;
  };
  void open_output(Output& output, const std::string& name, const std::string& content);
  void write(Output& output, const std::string& text);

  std::filesystem::path folder_;
  std::vector<LogRecord> records_;
  Output json_, csv_, events_;
};

/// The columns of log.csv after `update` and `time`; values under other names appear in log.jsonl only.
const std::vector<std::string>& csv_columns();

}  // namespace avid::train

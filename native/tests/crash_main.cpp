// crash_states DIRECTORY [OPTION...]: records small stores under load, makes crash states out of what they sent to the
// device, recovers each and holds it against what the clients were promised. Ends with 0 when every state keeps the
// promises; with 1 and a small case when one does not; with 2 when it was called wrongly or could not run.
//
//   --workload NAME   only this one (all: see crash_workloads.cpp)     --states N   random ones of each (2500)
//   --seed N          of everything that is drawn (1)                  --workers N  processes (2)
//   --plant NAME      let the device lie: no-flush, no-data-flush, no-last-flush. Violations must be found.
//                     early-reuse: a frame of the log is only durable when the next one is sent, and nothing that fsync
//                     promised is held against the store: all that can be wrong is that space was used again before
//                     the log that frees it was durable
//   --recording FILE --state STATE   one state of a kept recording again, as a failure prints it
//
// The device is memory and every state is made by laying a few writes over the last one, so a state costs what its
// recovery costs.
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <stdexcept>

#include "tests/crash_replay.hpp"

namespace kvfs::crash {
namespace {

constexpr std::size_t kThoroughEach = 16;
constexpr int kLives = 16;  // of the workload about recovery
constexpr int kMostAttempts = 400;

// std::invalid_argument for a name that is none.
Plant plant_of(const std::string& name) {
    if (name.empty()) return Plant::kNone;
    if (name == "no-flush") return Plant::kNoFlush;
    if (name == "no-data-flush") return Plant::kNoDataFlush;
    if (name == "no-last-flush") return Plant::kNoLastFlush;
    if (name == "early-reuse") return Plant::kEarlyReuse;
    throw std::invalid_argument("nothing to plant: " + name);
}

struct Arguments {
    std::string directory, workload, plant, recording, state;
    std::uint64_t seed = 1, states = 2500, workers = 2;
};

struct Failure {
    State state;
    std::string problem;
};

// A device at a state of its own, which is not the next one: for going back and forth.
std::string check_alone(const Recording& recording, const State& state, const std::string& path,
                        std::vector<std::size_t>* found = nullptr) {
    Images images(recording.trace);
    Checker checker(path, recording.histories, recording.evicts != 0);
    std::string problem = checker.check(images.at(state), state.crash, true);
    if (found != nullptr) *found = checker.found();
    return problem;
}

// Greedily: fewer torn writes, then fewer writes missing, then fewer present, as long as it fails.
Failure shrink(const Recording& recording, Failure failure, const std::string& path) {
    int attempts = 0;
    const auto try_instead = [&](State smaller) {
        if (++attempts > kMostAttempts) return false;
        std::string problem = check_alone(recording, smaller, path);
        if (problem.empty()) return false;
        failure = {std::move(smaller), std::move(problem)};
        return true;
    };
    for (std::size_t i = 0; i < failure.state.present.size(); ++i) {
        if (failure.state.present[i].tear.unit == 0) continue;
        State smaller = failure.state;
        smaller.present[i].tear = {};
        try_instead(std::move(smaller));
    }
    for (const std::size_t number : undecided(recording.trace, failure.state.crash)) {
        const auto at = std::lower_bound(failure.state.present.begin(), failure.state.present.end(), number,
                                         [](const Present& present, std::size_t n) { return present.write < n; });
        if (at != failure.state.present.end() && at->write == number) continue;
        State smaller = failure.state;
        smaller.present.insert(smaller.present.begin() + (at - failure.state.present.begin()), {number, {}});
        try_instead(std::move(smaller));
    }
    for (std::size_t i = 0; i < failure.state.present.size();) {
        State smaller = failure.state;
        smaller.present.erase(smaller.present.begin() + static_cast<std::ptrdiff_t>(i));
        if (!try_instead(std::move(smaller))) ++i;
    }
    return failure;
}

// Every `workers`th state from `first` on. The first that fails, or none.
std::vector<Failure> check_share(const Recording& recording, const std::vector<State>& states, std::size_t first,
                                 std::size_t workers, const std::string& path) {
    Images images(recording.trace);
    Checker checker(path, recording.histories, recording.evicts != 0);
    for (std::size_t i = first; i < states.size(); i += workers) {
        std::string problem = checker.check(images.at(states[i]), states[i].crash, (i / workers) % kThoroughEach == 0);
        if (!problem.empty()) return {{states[i], std::move(problem)}};
    }
    return {};
}

std::string worker_path(const Arguments& arguments, std::size_t worker, std::uint64_t size) {
    std::string path = arguments.directory + "/device" + std::to_string(worker);
    std::FILE* const file = std::fopen(path.c_str(), "we");
    if (file == nullptr || ftruncate(fileno(file), static_cast<off_t>(size)) != 0) {
        throw std::runtime_error(path + ": " + std::strerror(errno));
    }
    std::fclose(file);
    return path;
}

void report(const Arguments& arguments, const Recording& recording, const std::string& name, const Failure& failure) {
    const std::string kept = arguments.directory + "/" + name + ".recording";
    save(recording, kept);
    std::printf("VIOLATION in workload %s, seed %llu: %s\n%sAgain: crash_states %s --recording %s --state %s%s%s\n",
                name.c_str(), static_cast<unsigned long long>(arguments.seed), failure.problem.c_str(),
                describe(recording.trace, failure.state).c_str(), arguments.directory.c_str(), kept.c_str(),
                to_text(failure.state).c_str(), arguments.plant.empty() ? "" : " --plant ", arguments.plant.c_str());
    std::fflush(stdout);
}

// Processes, not threads: every open store has the process's tables of threads and descriptors to itself.
bool check_all(const Arguments& arguments, const Recording& recording, const std::vector<State>& states,
               const std::string& name) {
    std::vector<pid_t> children;
    for (std::size_t worker = 0; worker < arguments.workers; ++worker) {
        std::fflush(nullptr);
        const pid_t child = fork();  // no store is open, so there is no other thread
        if (child < 0) throw std::runtime_error(std::string("fork: ") + std::strerror(errno));
        if (child > 0) {
            children.push_back(child);
            continue;
        }
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int status = 2;
        try {
            const std::string path = worker_path(arguments, worker, recording.trace.base.size());
            const auto failed = check_share(recording, states, worker, arguments.workers, path);
            for (const Failure& failure : failed) {
                const std::string label = name + "-" + std::to_string(worker);
                report(arguments, recording, label, shrink(recording, failure, path));
            }
            status = failed.empty() ? 0 : 1;
        } catch (const std::exception& failure) {
            std::fprintf(stderr, "crash_states: %s\n", failure.what());
        }
        std::fflush(nullptr);
        std::_Exit(status);
    }
    bool good = true;
    for (const pid_t child : children) {
        int status = 0;
        if (waitpid(child, &status, 0) != child) throw std::runtime_error("a worker cannot be waited for");
        if (WIFSIGNALED(status)) {
            throw std::runtime_error("a worker ended by signal " + std::to_string(WTERMSIG(status)));
        }
        if (WEXITSTATUS(status) == 2) throw std::runtime_error("a worker could not go on");
        good = good && WEXITSTATUS(status) == 0;
    }
    return good;
}

void plant(Recording& recording, Plant plant) {
    recording.trace.settle(plant);
    if (plant != Plant::kEarlyReuse) return;
    for (History& history : recording.histories) history.promises.clear();
}

// The states of one recording; how many, or nothing when one of them breaks a promise.
std::size_t check_recording(const Arguments& arguments, Recording& recording, const std::string& name,
                            std::size_t count, std::uint64_t seed) {
    plant(recording, plant_of(arguments.plant));
    const auto states = plan_states(recording.trace, count, seed);
    return check_all(arguments, recording, states, name) ? states.size() : 0;
}

bool run_workload(const Arguments& arguments, const Workload& workload) {
    const auto begin = std::chrono::steady_clock::now();
    const auto elapsed = [&] {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    };
    const std::string name = workload.name;
    const std::string path = arguments.directory + "/device";
    Recording recording = record(workload, path, arguments.seed);
    if (recording.covered == 0) {
        throw std::runtime_error("workload " + name + ": expected " + workload.covers +
                                 ", found none: it proves nothing");
    }
    const bool lives = name == "recovery";
    const std::size_t each = arguments.states / workload.share / (lives ? kLives : 1);
    std::size_t writes = 0;
    std::size_t flushes = 0;
    std::size_t states = 0;
    const double recorded = elapsed();
    for (int life = 0;; ++life) {
        const std::uint64_t seed = arguments.seed + 100 * static_cast<std::uint64_t>(life);
        const std::size_t done = check_recording(arguments, recording, name, each, seed);
        if (done == 0) return false;
        states += done;
        writes += recording.trace.writes.size();
        flushes += recording.trace.flushes.size();
        if (!lives || life + 1 == kLives) break;
        // somewhere in the middle the power goes, and the next life begins with what that left
        const auto some = plan_states(recording.trace, each, seed);
        const State& state = some[some.size() / 3];
        std::vector<std::size_t> found;
        const std::string problem = check_alone(recording, state, path, &found);
        if (!problem.empty()) {
            report(arguments, recording, name, {state, problem});
            return false;
        }
        recording = record_after(recording, state, found, path, seed + 1);
    }
    std::printf("%-10s %6zu states  %5zu writes  %4zu flushes  %llu %s  %.1f s to record, %.1f s in all  seed %llu\n",
                workload.name, states, writes, flushes, static_cast<unsigned long long>(recording.covered),
                workload.covers, recorded, elapsed(), static_cast<unsigned long long>(arguments.seed));
    std::fflush(stdout);
    return true;
}

int replay(const Arguments& arguments) {
    Recording recording = load(arguments.recording);
    plant(recording, plant_of(arguments.plant));
    const State state = parse_state(arguments.state);
    std::printf("%s", describe(recording.trace, state).c_str());
    const std::string problem = check_alone(recording, state, worker_path(arguments, 0, recording.trace.base.size()));
    std::printf("%s\n", problem.empty() ? "every promise is kept" : problem.c_str());
    return problem.empty() ? 0 : 1;
}

Arguments parse(int argc, char** argv) {
    if (argc < 2 || argv[1][0] == '-' || argc % 2 != 0) {
        throw std::invalid_argument(
            "expected DIRECTORY and options with a value each (see the head of crash_main.cpp)");
    }
    Arguments out;
    out.directory = argv[1];
    const std::map<std::string, std::string*> texts{{"--workload", &out.workload},
                                                    {"--plant", &out.plant},
                                                    {"--recording", &out.recording},
                                                    {"--state", &out.state}};
    const std::map<std::string, std::uint64_t*> numbers{
        {"--seed", &out.seed}, {"--states", &out.states}, {"--workers", &out.workers}};
    for (int i = 2; i < argc; i += 2) {
        const std::string option = argv[i];
        if (const auto text = texts.find(option); text != texts.end()) {
            *text->second = argv[i + 1];
        } else if (const auto number = numbers.find(option); number != numbers.end()) {
            *number->second = std::stoull(argv[i + 1]);
        } else {
            throw std::invalid_argument("no such option: " + option);
        }
    }
    plant_of(out.plant);
    if (out.recording.empty() != out.state.empty()) throw std::invalid_argument("--recording and --state go together");
    if (out.workers == 0) throw std::invalid_argument("expected at least one worker");
    return out;
}

int run(const Arguments& arguments) {
    if (!arguments.recording.empty()) return replay(arguments);
    bool good = true;
    bool any = false;
    for (const Workload& workload : workloads()) {
        if (!arguments.workload.empty() && arguments.workload != workload.name) continue;
        any = true;
        good = run_workload(arguments, workload) && good;
    }
    if (!any) throw std::invalid_argument("no such workload: " + arguments.workload);
    return good ? 0 : 1;
}

}  // namespace
}  // namespace kvfs::crash

int main(int argc, char** argv) {
    try {
        return kvfs::crash::run(kvfs::crash::parse(argc, argv));
    } catch (const std::exception& failure) {
        std::fprintf(stderr, "crash_states: %s\n", failure.what());
        return 2;
    }
}

// A whole volume that somebody made up: recovered, looked at, checked, changed, closed and recovered again.
//
// The input says what lies on it (image.hpp): records in frames whose checksums hold. Whatever it says, opening either
// fails with OpenError or gives a store in which every call returns, whose tree is a tree, and which, emptied, is empty
// after the next recovery too.
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>
#include <vector>

#include "fuzz/image.hpp"
#include "store/check.hpp"
#include "store/store.hpp"

namespace {

using namespace kvfs;
using store::Attributes;
using uring::block_on;

void expect(bool holds, const std::string& what) {
    if (holds) return;
    std::fprintf(stderr, "violated: %s\n", what.c_str());
    std::abort();
}

store::Options options(bool read_only) {
    store::Options out;
    out.read_only = read_only;
    out.owner = "{}";
    out.buffer_bytes = out.cache_bytes = 1 << 20;
    out.rings = 1;
    return out;
}

// Looks at everything that can be reached from the root, and empties it on the way back when it is told to.
class Walk {
public:
    Walk(store::Store& store, bool remove) : store_(store), remove_(remove) {}

    void directory(std::uint64_t ino, int depth) {
        expect(seen_.insert(ino).second, "directory " + std::to_string(ino) + " has one name");
        expect(depth < 100, "directories come to an end");
        std::vector<store::NameId> names;
        expect(store_.list(ino, names) == 0, "a directory can be listed");
        std::set<std::string> texts;
        for (const store::NameId id : names) {
            Attributes attributes{};
            std::string name;
            if (!store_.entry(ino, id, name, attributes, false)) continue;  // dropped: its data was wrong
            expect(texts.insert(name).second, "names of a directory differ: " + name);
            expect(name.find('/') == std::string::npos && name.find('\0') == std::string::npos && name != "." &&
                       name != ".." && !name.empty(),
                   "a name can be said: " + name);
            expect(attributes.nlink > 0, "what has a name has links");
            entry(ino, name, attributes, depth);
        }
    }
    [[nodiscard]] std::size_t inodes() const { return seen_.size(); }

private:
    void entry(std::uint64_t parent, const std::string& name, const Attributes& attributes, int depth) {
        Attributes found{};
        const int rc = store_.lookup(parent, name, found);
        expect(rc == 0 && found.ino == attributes.ino, "what is listed is found");
        std::vector<std::string> keys;
        std::string value;
        if (store_.listxattr(found.ino, keys) == 0) {
            for (const auto& key : keys) expect(store_.getxattr(found.ino, key, value) == 0, "a key has a value");
        }
        bool dropped = false;
        if (S_ISDIR(found.mode)) {
            directory(found.ino, depth + 1);
        } else {
            seen_.insert(found.ino);
            if (S_ISREG(found.mode)) dropped = !contents(found);
            if (S_ISLNK(found.mode)) expect(store_.readlink(found.ino, value) == 0, "a link can be read");
        }
        store_.forget(found.ino, 1);
        if (!remove_) return;
        std::uint64_t ino = 0;
        const int gone = S_ISDIR(found.mode) ? store_.rmdir(parent, name, ino) : store_.unlink(parent, name, ino);
        expect(gone == 0 || (dropped && gone == -ENOENT), "what is there can be removed: " + name);
    }

    // False when some of it was wrong, which drops the file.
    bool contents(const Attributes& file) {
        expect(store_.open(file.ino, false) == 0, "a file can be opened");
        bool whole = true;
        for (const std::uint64_t offset : {std::uint64_t{0}, file.size / 2, file.size - file.size / 8}) {
            const auto read = block_on(store_.read(file.ino, offset, 300'000));
            whole = whole && read.error == 0;
            if (read.error != 0) continue;
            const std::uint64_t expected = std::min<std::uint64_t>(300'000, file.size - std::min(offset, file.size));
            expect(read.data.size == expected, "a read is not short");
        }
        block_on(store_.seek(file.ino, 0, SEEK_DATA));
        block_on(store_.seek(file.ino, file.size / 3, SEEK_HOLE));
        store_.release(file.ino, false);
        return whole;
    }

    store::Store& store_;
    bool remove_;
    std::set<std::uint64_t> seen_;
};

void write_something(store::Store& store) {
    Attributes made{};
    const std::string name = "made by the fuzzer";
    if (store.make(store::kRoot, name, S_IFREG | 0600, {}, {}, true, made) != 0) return;  // full, or read-only
    if (store.open(made.ino, true) == 0) {
        const std::vector<std::byte> data(100'000, std::byte{'x'});
        const std::int64_t n = block_on(store.write(made.ino, 0, data));
        expect(n < 0 || n == std::int64_t{100'000}, "a write is not short");
        if (n > 0) {
            const auto read = block_on(store.read(made.ino, 0, data.size()));
            expect(read.error == 0 && read.data.size == data.size() &&
                       std::memcmp(read.data.buffer.data() + read.data.offset, data.data(), data.size()) == 0,
                   "what was written is read");
        }
        block_on(store.fsync(made.ino));
        store.release(made.ino, true);
    }
    store.forget(made.ino, 1);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0 || size > 4096) return 0;
    static fuzz::Image image;
    fuzz::Input input(data + 1, size - 1);
    image.build(input);
    try {
        store::check_volume(image.path(), true, {});
    } catch (const store::OpenError&) {  // NOLINT(bugprone-empty-catch): refused, in words
    }
    const bool read_only = data[0] % 2 == 0;
    bool emptied = false;
    try {
        store::Store store(image.path(), options(read_only));
        Walk walk(store, !read_only);
        walk.directory(store::kRoot, 0);
        // reading may have dropped files whose data was wrong: there can be fewer than were seen
        expect(store.gauges().files <= walk.inodes(), "every inode can be reached");
        if (!read_only) {
            emptied = true;
            block_on(store.sync());
            write_something(store);
        }
        store.space();
        store.take_events();
        store.close();
    } catch (const store::OpenError&) {
        return 0;
    }
    if (!emptied) return 0;
    try {
        store::Store store(image.path(), options(true));
        Walk walk(store, false);
        walk.directory(store::kRoot, 0);
        expect(walk.inodes() <= 2, "what was removed stays removed");
    } catch (const store::OpenError& error) {
        expect(false, std::string("what was closed in order can be opened: ") + error.what());
    }
    return 0;
}

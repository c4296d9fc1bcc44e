#include "tests/crash_trace.hpp"

#include <algorithm>
#include <cstring>

namespace kvfs::crash {
namespace {

bool is_log_frame(const Write& write) {
    if (write.data.size() < sizeof(format::FrameHeader)) return false;
    std::uint32_t magic = 0;
    std::memcpy(&magic, write.data.data(), sizeof magic);
    return magic == format::kFrameMagic;
}

bool is_superblock(const Write& write) {
    return write.data.size() >= sizeof format::kSuperblockMagicBytes &&
           std::memcmp(write.data.data(), format::kSuperblockMagicBytes, sizeof format::kSuperblockMagicBytes) == 0;
}

// A frame is sent, or came back, right after or right before this flush.
bool is_beside_frame(const Trace& trace, const Flush& flush, Plant plant) {
    if (plant == Plant::kNoDataFlush) {
        const auto next = std::find_if(trace.writes.begin(), trace.writes.end(),
                                       [&](const Write& write) { return write.sent > flush.back; });
        return next != trace.writes.end() && is_log_frame(*next);
    }
    const Write* last = nullptr;
    for (const Write& write : trace.writes) {
        if (write.back < flush.sent && (last == nullptr || write.back > last->back)) last = &write;
    }
    return last != nullptr && is_log_frame(*last);
}

}  // namespace

void Trace::settle(Plant plant) {
    std::vector<const Flush*> honest;
    for (const Flush& flush : flushes) {
        if (flush.back == kNever || plant == Plant::kNoFlush) continue;
        const bool beside = plant == Plant::kNoDataFlush || plant == Plant::kNoLastFlush;
        if (!beside || !is_beside_frame(*this, flush, plant)) honest.push_back(&flush);
    }
    // flushes are noted as they are sent: of those sent after a write came back, the one that came back first counts
    std::vector<Time> earliest(honest.size() + 1, kNever);
    for (std::size_t i = honest.size(); i-- > 0;) earliest[i] = std::min(earliest[i + 1], honest[i]->back);
    for (Write& write : writes) {
        const auto first = std::partition_point(honest.begin(), honest.end(),
                                                [&](const Flush* flush) { return flush->sent < write.back; });
        write.durable = write.back == kNever ? kNever : earliest[static_cast<std::size_t>(first - honest.begin())];
    }
    if (plant != Plant::kEarlyReuse) return;
    Time next = kNever;  // superblocks name frames: what they name is there
    for (std::size_t i = writes.size(); i-- > 0;) {
        if (is_log_frame(writes[i])) writes[i].durable = std::max(writes[i].durable, next);
        if (is_log_frame(writes[i]) || is_superblock(writes[i])) next = writes[i].sent;
    }
}

MemoryDevice::MemoryDevice(std::span<std::byte> image) : image_(image), over_(image.size() / kBlock) {}

void MemoryDevice::record(Trace* trace, std::uint64_t seed) {
    const std::lock_guard guard(mutex_);
    trace_ = trace;
    random_.seed(seed);
    under_way_.clear();
}

Time MemoryDevice::tick() {
    const std::lock_guard guard(mutex_);
    if (trace_ != nullptr) trace_->end = ++now_;
    return now_;
}

std::byte* MemoryDevice::own(std::uint64_t block) {
    if (over_[block] == 0) {
        auto& bytes = blocks_.emplace_back();
        std::memcpy(bytes.data(), image_.data() + block * kBlock, kBlock);
        numbers_.push_back(block);
        over_[block] = static_cast<std::uint32_t>(blocks_.size());
    }
    return blocks_[over_[block] - 1].data();
}

void MemoryDevice::write(std::uint64_t offset, std::span<const std::byte> data) {
    while (!data.empty()) {
        const std::size_t at = offset % kBlock;
        const std::size_t n = std::min(data.size(), kBlock - at);
        std::memcpy(own(offset / kBlock) + at, data.data(), n);
        offset += n;
        data = data.subspan(n);
    }
}

void MemoryDevice::zero(std::uint64_t offset, std::uint64_t size) {
    static constexpr std::array<std::byte, kBlock> kZeros{};
    for (const std::uint64_t end = offset + size; offset < end;) {
        const std::uint64_t n = std::min<std::uint64_t>(end - offset, kBlock - offset % kBlock);
        write(offset, {kZeros.data(), n});
        offset += n;
    }
}

void MemoryDevice::read(std::uint64_t offset, std::span<std::byte> out) const {
    while (!out.empty()) {
        const std::size_t at = offset % kBlock;
        const std::size_t n = std::min(out.size(), kBlock - at);
        const std::uint32_t over = over_[offset / kBlock];
        const std::byte* const from = over == 0 ? image_.data() + offset / kBlock * kBlock : blocks_[over - 1].data();
        std::memcpy(out.data(), from + at, n);
        offset += n;
        out = out.subspan(n);
    }
}

void MemoryDevice::reset() {
    for (const std::uint64_t block : numbers_) over_[block] = 0;
    blocks_.clear();
    numbers_.clear();
}

void MemoryDevice::keep() {
    for (std::size_t i = 0; i < numbers_.size(); ++i) {
        std::memcpy(image_.data() + numbers_[i] * kBlock, blocks_[i].data(), kBlock);
    }
    reset();
}

// Most small requests come back at once; others late enough to be passed, and for clients to go on meanwhile.
std::chrono::nanoseconds MemoryDevice::draw_delay(const Request& request) {
    using namespace std::chrono_literals;
    constexpr std::size_t kLarge = 128 * 1024;
    if (trace_ == nullptr || request.kind == uring::OpKind::kRead) return 0ns;
    if (request.size >= kLarge) return std::chrono::microseconds(random_() % 3000);
    if (random_() % 4 != 0) return 0ns;
    return std::chrono::microseconds(random_() % (random_() % 8 == 0 ? 4000 : 300));
}

std::optional<uring::Tap::Answer> MemoryDevice::before(const Request& request) {
    const std::lock_guard guard(mutex_);
    const bool transfer = request.kind == uring::OpKind::kRead || request.kind == uring::OpKind::kWrite;
    if (request.offset > image_.size() || request.size > image_.size() - request.offset) return Answer{-EIO};
    switch (request.kind) {
        case uring::OpKind::kRead:
            read(request.offset, {request.data, request.size});
            break;
        case uring::OpKind::kWrite:
            write(request.offset, {request.data, request.size});
            break;
        case uring::OpKind::kPunch:
            zero(request.offset, request.size);
            break;
        case uring::OpKind::kSync:
            break;
    }
    if (trace_ != nullptr && request.kind != uring::OpKind::kRead) {
        trace_->end = ++now_;
        if (request.kind == uring::OpKind::kSync) {
            under_way_[request.id] = trace_->flushes.size();
            trace_->flushes.push_back({now_, kNever});
        } else {
            under_way_[request.id] = trace_->writes.size();
            Write& noted = trace_->writes.emplace_back();
            noted.offset = request.offset;
            noted.size = request.size;
            noted.sent = now_;
            if (request.kind == uring::OpKind::kWrite) noted.data.assign(request.data, request.data + request.size);
        }
    }
    return Answer{transfer ? static_cast<int>(request.size) : 0, draw_delay(request)};
}

int MemoryDevice::after(const Request& request, int result) {
    const std::lock_guard guard(mutex_);
    if (trace_ == nullptr || request.kind == uring::OpKind::kRead) return result;
    const auto it = under_way_.find(request.id);
    if (it == under_way_.end()) return result;  // sent before the recording began
    trace_->end = ++now_;
    if (request.kind == uring::OpKind::kSync) {
        trace_->flushes[it->second].back = now_;
    } else {
        trace_->writes[it->second].back = now_;
    }
    under_way_.erase(it);
    return result;
}

}  // namespace kvfs::crash

// A vector whose first N elements need no allocation: requests are planned in the coroutine's own frame.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <utility>

namespace kvfs::uring {

template <typename T, std::size_t N>
class InlineVector {
public:
    InlineVector() noexcept : data_(inside_) {}
    InlineVector(InlineVector&& other) noexcept : data_(inside_) { take(other); }
    InlineVector& operator=(InlineVector&& other) noexcept {
        if (this != &other) {
            release();
            take(other);
        }
        return *this;
    }
    InlineVector(const InlineVector&) = delete;
    InlineVector& operator=(const InlineVector&) = delete;
    ~InlineVector() { release(); }

    void push_back(T value) { emplace_back(std::move(value)); }
    // `args` must not refer to an element: growing moves them.
    template <typename... Args>
    T& emplace_back(Args&&... args) {
        if (size_ == capacity_) grow();
        return *std::construct_at(data_ + size_++, std::forward<Args>(args)...);
    }
    void clear() {
        std::destroy_n(data_, size_);
        size_ = 0;
    }

    [[nodiscard]] bool empty() const { return size_ == 0; }
    [[nodiscard]] std::size_t size() const { return size_; }
    [[nodiscard]] T* data() { return data_; }
    [[nodiscard]] const T* data() const { return data_; }
    [[nodiscard]] T& operator[](std::size_t i) { return data_[i]; }
    [[nodiscard]] const T& operator[](std::size_t i) const { return data_[i]; }
    [[nodiscard]] T& back() { return data_[size_ - 1]; }
    [[nodiscard]] T* begin() { return data_; }
    [[nodiscard]] T* end() { return data_ + size_; }
    [[nodiscard]] const T* begin() const { return data_; }
    [[nodiscard]] const T* end() const { return data_ + size_; }

private:
    [[nodiscard]] bool is_inside() const { return data_ == inside_; }

    void grow() {
        T* const wider = std::allocator<T>().allocate(capacity_ * 2);
        std::uninitialized_move_n(data_, size_, wider);
        std::destroy_n(data_, size_);
        if (!is_inside()) std::allocator<T>().deallocate(data_, capacity_);
        data_ = wider;
        capacity_ *= 2;
    }
    // Only while this holds nothing and lies inside.
    void take(InlineVector& other) {
        if (other.is_inside()) {
            std::uninitialized_move_n(other.data_, other.size_, data_);
            size_ = other.size_;
            other.clear();
            return;
        }
        data_ = std::exchange(other.data_, other.inside_);
        size_ = std::exchange(other.size_, 0);
        capacity_ = std::exchange(other.capacity_, N);
    }
    void release() {
        clear();
        if (!is_inside()) std::allocator<T>().deallocate(data_, capacity_);
        data_ = inside_;
        capacity_ = N;
    }

    union {  // room for them, without making them
        T inside_[N];
    };
    T* data_;
    std::size_t size_ = 0;
    std::size_t capacity_ = N;
};

}  // namespace kvfs::uring

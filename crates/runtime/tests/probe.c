// Makes one system call through one door and prints what came back: an error as its negative number.
//   probe native|i386|x32 NUMBER [ARGUMENT]...
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static long native(long n, long a, long b, long c) {
    long answer;
#if defined(__x86_64__)
    register long d __asm__("r10") = 0;
    __asm__ volatile("syscall" : "=a"(answer) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(d) : "rcx", "r11", "memory");
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = n, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    answer = x0;
#endif
    return answer;
}

static long old32(long n, long a, long b, long c) {
    int answer = -1000;
#if defined(__x86_64__)
    __asm__ volatile("int $0x80" : "=a"(answer) : "a"(n), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
#endif
    return answer;
}

int main(int argc, char **argv) {
    long v[4] = {0};
    for (int i = 2; i < argc && i < 6; i++) v[i - 2] = strtoul(argv[i], 0, 0);
    long answer = strcmp(argv[1], "i386") == 0 ? old32(v[0], v[1], v[2], v[3])
                : native(strcmp(argv[1], "x32") == 0 ? v[0] | 0x40000000 : v[0], v[1], v[2], v[3]);
    printf("%ld\n", answer);
    return 0;
}

// Reads a JSON array of orders from standard input and writes their totals by customer, sorted by name, to standard output:
//   [{"customer":"Ada","item":"tea","price":250,"count":2}, …]  →  {"Ada":500, …, "total":…}
// Exit status 2 when the input is not such an array.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { char *name; long long total; } Customer;

static const char *at, *end;

static void fail(const char *what) {
    fprintf(stderr, "json: %s\n", what);
    exit(2);
}

static void space(void) {
    while (at < end && (*at == ' ' || *at == '\n' || *at == '\t' || *at == '\r')) at++;
}

static int take(char c) {
    space();
    if (at < end && *at == c) return at++, 1;
    return 0;
}

static void expect(char c) {
    char message[] = "expected `?`";
    message[10] = c;
    if (!take(c)) fail(message);
}

static void put_utf8(char **to, unsigned c) {
    if (c < 0x80) *(*to)++ = (char)c;
    else if (c < 0x800) *(*to)++ = (char)(0xc0 | c >> 6), *(*to)++ = (char)(0x80 | (c & 63));
    else *(*to)++ = (char)(0xe0 | c >> 12), *(*to)++ = (char)(0x80 | (c >> 6 & 63)), *(*to)++ = (char)(0x80 | (c & 63));
}

static char *string(void) {
    expect('"');
    char *text = malloc((size_t)(end - at) + 1), *to = text;
    if (!text) fail("out of memory");
    while (at < end && *at != '"') {
        if (*at != '\\') { *to++ = *at++; continue; }
        if (end - ++at < 1) fail("unfinished escape");
        char c = *at++;
        switch (c) {
            case 'n': *to++ = '\n'; break;
            case 't': *to++ = '\t'; break;
            case 'r': *to++ = '\r'; break;
            case 'b': *to++ = '\b'; break;
            case 'f': *to++ = '\f'; break;
            case 'u': {
                if (end - at < 4) fail("unfinished escape");
                char digits[5] = {at[0], at[1], at[2], at[3], 0}, *rest;
                unsigned long code = strtoul(digits, &rest, 16);
                if (*rest) fail("bad escape");
                at += 4;
                put_utf8(&to, (unsigned)code);
                break;
            }
            default: *to++ = c;
        }
    }
    if (at == end) fail("unfinished string");
    at++;
    *to = 0;
    return text;
}

static long long number(void) {
    space();
    char *rest;
    long long value = strtoll(at, &rest, 10);
    if (rest == at) fail("expected a number");
    at = rest;
    return value;
}

static void write_string(const char *text) {
    putchar('"');
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') putchar('\\');
        if ((unsigned char)*text < 32) printf("\\u%04x", (unsigned char)*text);
        else putchar(*text);
    }
    putchar('"');
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const Customer *)a)->name, ((const Customer *)b)->name);
}

int main(void) {
    size_t size = 0, room = 1 << 16;
    char *text = malloc(room + 1);
    for (size_t n; text && (n = fread(text + size, 1, room - size, stdin)) > 0;) {
        size += n;
        if (size == room) text = realloc(text, (room *= 2) + 1);
    }
    if (!text) fail("out of memory");
    text[size] = 0;
    at = text;
    end = text + size;

    Customer *customers = NULL;
    size_t count = 0;
    expect('[');
    if (!take(']')) {
        do {
            char *name = NULL;
            long long price = 0, pieces = 1;
            expect('{');
            do {
                char *key = string();
                expect(':');
                if (!strcmp(key, "customer")) name = string();
                else if (!strcmp(key, "price")) price = number();
                else if (!strcmp(key, "count")) pieces = number();
                else if (take('"')) at--, free(string());
                else number();
                free(key);
            } while (take(','));
            expect('}');
            if (!name) fail("an order without customer");
            size_t i = 0;
            while (i < count && strcmp(customers[i].name, name)) i++;
            if (i == count) {
                customers = realloc(customers, ++count * sizeof *customers);
                if (!customers) fail("out of memory");
                customers[i] = (Customer){name, 0};
            } else free(name);
            customers[i].total += price * pieces;
        } while (take(','));
        expect(']');
    }
    space();
    if (at != end) fail("something follows the array");

    qsort(customers, count, sizeof *customers, by_name);
    long long total = 0;
    putchar('{');
    for (size_t i = 0; i < count; i++) {
        write_string(customers[i].name);
        printf(":%lld,", customers[i].total);
        total += customers[i].total;
    }
    printf("\"total\":%lld}\n", total);
    return 0;
}

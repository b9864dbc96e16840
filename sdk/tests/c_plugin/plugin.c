/*
 * A plugin in C, built with the frozen header of version 1.0. The tests build it as it stands, and with one thing spoilt at a
 * time (-D) to see what the step host says.
 */
#define _GNU_SOURCE
#include "connect_migrator_plugin_1_0.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef MAGIC
#define MAGIC CM_MAGIC
#endif
#ifndef STRUCT_SIZE
#define STRUCT_SIZE sizeof(cm_descriptor)
#endif
#ifndef MAJOR
#define MAJOR CM_ABI_MAJOR
#endif
#ifndef MINOR
#define MINOR CM_ABI_MINOR
#endif
#ifndef VTABLE_SIZE
#define VTABLE_SIZE sizeof(cm_vtable)
#endif
#ifndef VTABLE
#define VTABLE &table.vtable
#endif
#ifndef DESCRIPTOR
#define DESCRIPTOR &descriptor
#endif
#ifndef CALL
#define CALL call
#endif
#ifndef SYMBOL
#define SYMBOL connect_migrator_plugin_v1
#endif

#define TEXT(literal) { (const uint8_t *)(literal), sizeof(literal) - 1 }

static cm_buffer give(const char *text)
{
    cm_buffer buffer = { (uint8_t *)strdup(text), strlen(text) };
    return buffer;
}

static void take_back(cm_buffer buffer)
{
    free(buffer.ptr);
}

static cm_buffer describe(void)
{
    return give("{\"ok\":{\"plugin\":\"c-plugin\",\"version\":\"1\",\"sdk\":\"C 1.0\",\"steps\":"
                "[{\"name\":\"c-plugin\",\"summary\":\"Written in C\"}]}}");
}

/* Asks for everything once; waits for its cancellation when the settings contain "wait". */
static cm_buffer call(cm_text request, const cm_host *host)
{
    static const cm_text line = TEXT("hello from C"), none = { NULL, 0 };
    static const cm_text progress = TEXT("{\"doing\":\"working in C\"}"), record = TEXT("{\"was\":1}"), name = TEXT("key");

    if (memmem(request.ptr, request.len, "\"wait\"", 6)) {
        while (!host->is_cancelled(host->ctx))
            usleep(1000);
        return give("{\"error\":{\"tried\":\"wait\",\"why\":\"it was asked to stop\",\"cancelled\":true}}");
    }
    host->log(host->ctx, CM_LOG_WARN, line, none);
    host->progress(host->ctx, progress);
    cm_buffer recorded = host->record_undo(host->ctx, record);
    cm_buffer secret = host->secret(host->ctx, name);
    char answer[512];
    snprintf(answer, sizeof answer,
             "{\"ok\":{\"done\":\"changed\",\"evidence\":[\"asked\"],\"details\":{\"recorded\":%.*s,\"secret\":%.*s}}}",
             (int)recorded.len, (const char *)recorded.ptr, (int)secret.len, (const char *)secret.ptr);
    host->free(host->ctx, recorded);
    host->free(host->ctx, secret);
    return give(answer);
}

/* What lies behind a table of 1.0 must not be taken for a function. */
static const struct {
    cm_vtable vtable;
    uintptr_t trap;
} table = { { VTABLE_SIZE, describe, CALL, take_back }, 0xdead };

static const cm_descriptor descriptor = {
    MAGIC, STRUCT_SIZE, MAJOR, MINOR, TEXT("C 1.0"), TEXT("the system's cc"), TEXT("c-plugin"), VTABLE,
};

const cm_descriptor *SYMBOL(void);
const cm_descriptor *SYMBOL(void)
{
    return DESCRIPTOR;
}

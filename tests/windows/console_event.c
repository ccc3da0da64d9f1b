/*
 * console_event EVENT PID: the parent of that process hears an event of the console.
 *
 * Programs may ask for no more than Ctrl-C and Ctrl-Break (GenerateConsoleCtrlEvent); Wine 8.0
 * grants the first alone, and only where there is a console. A process hears each of them on a
 * thread that the system starts in it at kernelbase's CtrlRoutine: such a thread is started here.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>
#include <tlhelp32.h>

static const struct { const char *name; DWORD event; } events[] = {
    { "c", CTRL_C_EVENT },
    { "break", CTRL_BREAK_EVENT },
    { "close", CTRL_CLOSE_EVENT },
    { "logoff", CTRL_LOGOFF_EVENT },
    { "shutdown", CTRL_SHUTDOWN_EVENT },
};

static int failed(const char *what)
{
    fprintf(stderr, "%s: error %lu\n", what, GetLastError());
    return 1;
}

static DWORD parent_of(DWORD pid)
{
    PROCESSENTRY32 entry = { .dwSize = sizeof entry };
    HANDLE all = CreateToolhelp32Snapshot(TH32CS_SNAPPROCESS, 0);
    for (BOOL more = Process32First(all, &entry); more; more = Process32Next(all, &entry))
        if (entry.th32ProcessID == pid)
            return entry.th32ParentProcessID;
    return 0;
}

int main(int count, char **words)
{
    const size_t known = sizeof events / sizeof *events;
    size_t which = 0;
    while (count == 3 && which < known && strcmp(events[which].name, words[1]))
        which++;
    if (count != 3 || which == known) {
        fprintf(stderr, "usage: console_event c|break|close|logoff|shutdown PID\n");
        return 64;
    }
    DWORD parent = parent_of(strtoul(words[2], NULL, 10));
    if (!parent)
        return failed("no parent");
    HMODULE library = GetModuleHandleA("kernelbase");
    FARPROC routine = library ? GetProcAddress(library, "CtrlRoutine") : NULL;
    if (!routine)
        return failed("no CtrlRoutine");
    HANDLE process = OpenProcess(PROCESS_ALL_ACCESS, FALSE, parent);
    if (!process)
        return failed("the parent cannot be opened");
    /* The library stands at the same address in every process. */
    void *event = (void *)(ULONG_PTR)events[which].event;
    LPTHREAD_START_ROUTINE starts = (LPTHREAD_START_ROUTINE)(void *)routine;
    return CreateRemoteThread(process, NULL, 0, starts, event, 0, NULL) ? 0 : failed("no thread");
}

@echo off
rem Puts a private Python into .install\python: the archive that private_python.txt names, checked by its SHA-256.
rem install.bat calls it in the app's folder. Exit status 1: it said why not; 3: and that no other Python would
rem help. All paths are relative, so that no program has to understand the letters in the name of the folder.
setlocal EnableExtensions DisableDelayedExpansion
set "STUDIO_SYSTEM=Windows-%PROCESSOR_ARCHITECTURE%"
if defined PROCESSOR_ARCHITEW6432 set "STUDIO_SYSTEM=Windows-%PROCESSOR_ARCHITEW6432%"
set "STUDIO_FROM="
for /f "usebackq eol=# tokens=1-5" %%A in ("engine\install\private_python.txt") do call :row %%A %%B %%C %%D %%E
if not defined STUDIO_FROM goto no_build
rem The deepest file of the archive lies 140 characters below the app's folder; Windows allows 260.
set "STUDIO_HERE=%CD%"
if not "%STUDIO_HERE:~110,1%"=="" goto too_deep
if not exist ".install" mkdir ".install" 2>nul
if not exist ".install" goto no_folder
rem The lock is open for as long as this runs, so that a second start cannot open it. Messages go to stderr.
set "STUDIO_STARTED="
set "STUDIO_DONE="
call :fetch 9>".install\python-lock"
if defined STUDIO_DONE exit /b 0
if defined STUDIO_STARTED exit /b %ERRORLEVEL%
echo Cause: another start is already fetching Python, or the folder .install cannot be written. 1>&2
echo Fix:   wait for it, or close its window; if there is none, move the app to a folder of your own. 1>&2
exit /b 3

:row
if /i not "%~1"=="%STUDIO_SYSTEM%" exit /b 0
set "STUDIO_SIZE=%~2"
set "STUDIO_SUM=%~3"
set "STUDIO_FILE=%~4"
set "STUDIO_FROM=%~5"
exit /b 0

:fetch
set "STUDIO_STARTED=1"
set "STUDIO_ARCHIVE=%STUDIO_FILE%"
if not exist "%STUDIO_FILE%" goto download
call :check
if defined STUDIO_RIGHT goto unpack
goto wrong_local

:download
set "STUDIO_ARCHIVE=.install\%STUDIO_FILE%.partial"
set "STUDIO_RESUMED="
if exist "%STUDIO_ARCHIVE%" set "STUDIO_RESUMED=1"
set "STUDIO_RIGHT="
if defined STUDIO_RESUMED call :check
if defined STUDIO_RIGHT goto unpack
set "STUDIO_CURL="
for %%C in (curl.exe) do set "STUDIO_CURL=%%~$PATH:C"
if not defined STUDIO_CURL goto no_curl
echo No suitable Python here: fetching one for this app alone, %STUDIO_SIZE% MB, into .install\python ... 1>&2
:again
rem curl takes the proxy from HTTPS_PROXY. Revocation lists are often out of reach behind one; the sum is what counts.
"%STUDIO_CURL%" --progress-bar --fail --location --retry 3 --connect-timeout 30 --speed-limit 1000 --speed-time 60 --ssl-no-revoke --continue-at - --output "%STUDIO_ARCHIVE%" "%STUDIO_FROM%/%STUDIO_FILE%"
set "STUDIO_CODE=%ERRORLEVEL%"
call :check
if defined STUDIO_RIGHT goto unpack
rem 0 is complete; 22, 33 and 36 are refused by the server: what was there may not belong to it.
for %%C in (0 22 33 36) do if "%STUDIO_RESUMED%-%STUDIO_CODE%"=="1-%%C" set "STUDIO_RESUMED=again"
if "%STUDIO_RESUMED%"=="again" goto anew
if "%STUDIO_CODE%"=="23" goto disk_full
if not "%STUDIO_CODE%"=="0" goto no_network
del "%STUDIO_ARCHIVE%"
goto wrong_sum

:anew
del "%STUDIO_ARCHIVE%"
set "STUDIO_RESUMED="
goto again

:unpack
if exist ".install\python-new" rmdir /s /q ".install\python-new"
mkdir ".install\python-new"
tar -xzf "%STUDIO_ARCHIVE%" -C ".install\python-new" 2>nul
if errorlevel 1 goto not_unpacked
if not exist ".install\python-new\python\python.exe" goto not_unpacked
rem A virus scanner holds new files open for a moment.
for /l %%I in (1,1,15) do if exist ".install\python-new\python" call :place
if exist ".install\python-new\python" goto held_open
rmdir ".install\python-new"
if exist ".install\%STUDIO_FILE%.partial" del ".install\%STUDIO_FILE%.partial"
set "STUDIO_DONE=1"
exit /b 0

:place
if exist ".install\python" rmdir /s /q ".install\python" 2>nul
if not exist ".install\python" move ".install\python-new\python" ".install\python" >nul 2>nul
if exist ".install\python-new\python" ping -n 2 127.0.0.1 >nul
exit /b 0

:check
rem Sets STUDIO_RIGHT if the archive is the pinned one. Where a policy forbids certutil, PowerShell counts.
set "STUDIO_RIGHT="
for /f "usebackq" %%H in (`certutil -hashfile "%STUDIO_ARCHIVE%" SHA256 2^>nul`) do if /i "%%H"=="%STUDIO_SUM%" set "STUDIO_RIGHT=1"
if defined STUDIO_RIGHT exit /b 0
set "STUDIO_ASK=(Get-FileHash -Algorithm SHA256 -LiteralPath '%STUDIO_ARCHIVE%').Hash"
for /f "usebackq" %%H in (`powershell -NoProfile -Command "%STUDIO_ASK%" 2^>nul`) do if /i "%%H"=="%STUDIO_SUM%" set "STUDIO_RIGHT=1"
exit /b 0

:no_build
echo Cause: the packages have no builds for this processor or a 32-bit Windows (%STUDIO_SYSTEM%). 1>&2
echo Fix:   use a computer with a 64-bit processor of Intel or AMD, and a 64-bit Windows. 1>&2
exit /b 3

:too_deep
echo Cause: the folder's path is too long for Windows. 1>&2
echo Fix:   move the folder closer to the root of the drive, e.g. to C:\ControlNetStudio, and start this again. 1>&2
exit /b 3

:no_folder
echo Cause: this folder cannot be written. 1>&2
echo Fix:   move it to a folder of your own (not C:\Program Files), and start this again. 1>&2
exit /b 3

:no_curl
echo Cause: no suitable Python was found, and this Windows has no curl to fetch one. 1>&2
goto by_hand

:no_network
echo Cause: Python could not be downloaded (no connection, or a proxy that is not in the variable HTTPS_PROXY). 1>&2
echo Fix:   start this again, it continues where it stopped. Or offline: 1>&2
goto by_hand

:wrong_sum
echo Cause: the downloaded Python is not the expected one (another SHA-256); it was deleted. 1>&2
echo Fix:   start this again. If that does not help, a proxy or virus scanner changes downloads: 1>&2
goto by_hand

:wrong_local
echo Cause: %STUDIO_FILE%, which lies beside install.bat, is damaged or another version (another SHA-256). 1>&2
echo Fix:   delete it, or: 1>&2
:by_hand
echo        get %STUDIO_FILE% 1>&2
echo        from %STUDIO_FROM% 1>&2
echo        with another browser or computer, put it beside install.bat, and start this again. 1>&2
exit /b 1

:disk_full
echo Cause: the disk is full. 1>&2
echo Fix:   free some space (the app needs 3 GB, with a graphics card 10 GB) and start this again. 1>&2
exit /b 3

:not_unpacked
if exist ".install\python-new" rmdir /s /q ".install\python-new" 2>nul
echo Cause: the Python archive could not be unpacked: the disk is full, or this Windows has no tar. 1>&2
echo Fix:   free some space and start this again. 1>&2
exit /b 3

:held_open
echo Cause: another program, such as a virus scanner, holds files in .install open. 1>&2
echo Fix:   let it finish, close every window of the app, and start this again. 1>&2
exit /b 3

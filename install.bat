@echo off
rem Installs ControlNet Studio into this folder if needed, then starts it. Options: install.bat --help
setlocal EnableExtensions DisableDelayedExpansion
set "STUDIO_CALLED_FROM=%CD%"
rem cmd cannot stand in a folder of the network, such as \\server\share.
if "%~d0"=="\\" goto network
cd /d "%~dp0"
rem An update was killed between its two renames of engine: engine\install, which goes back, must be there to run.
if not exist "engine" if exist ".install\update\old\engine" move ".install\update\old\engine" "engine" >nul
if not exist "engine\install\probe.py" goto packed
rem Python answers in UTF-8, so a user name with an accent in a path survives.
chcp 65001 >nul
set "PYTHONUTF8=1"
set "PYTHONPATH="
set "PYTHONHOME="
set "PYTHONSTARTUP="
set "VIRTUAL_ENV="
set "STUDIO_PYTHON="
set "STUDIO_PRIVATE="
set "STUDIO_LOOKS="
set "STUDIO_REMOVES="
set "STUDIO_CLICKED="
if "%~1"=="" set "STUDIO_CLICKED=1"

:options
if "%~1"=="--private-python" set "STUDIO_PRIVATE=1"
if "%~1"=="--uninstall" set "STUDIO_REMOVES=1"
for %%O in (--help -h --where --uninstall --dry-run) do if "%~1"=="%%O" set "STUDIO_LOOKS=1"
shift /1
if not "%~1"=="" goto options

set "STUDIO_OWN=.install\python\python.exe"
if exist "%STUDIO_OWN%" call :probe "%STUDIO_OWN%"
if defined STUDIO_PYTHON goto run_own
if defined STUDIO_PRIVATE goto fetch
for %%V in (3.12 3.11 3.13) do call :probe py -%%V
for %%P in (python python3) do call :probe %%P
if defined STUDIO_PYTHON goto run

:fetch
if defined STUDIO_LOOKS goto only_looks
call "engine\install\fetch_python.bat"
if errorlevel 3 goto never
if errorlevel 1 goto missing
call :probe "%STUDIO_OWN%"
if defined STUDIO_PYTHON goto run_own
echo Cause: the fetched Python does not run on this Windows, or a virus scanner stops it.

:missing
echo        Or install a Python 3.11 to 3.13 (64-bit, not from the Microsoft Store), in a command window:
echo        winget install Python.Python.3.12
:never
if defined STUDIO_CLICKED pause
exit /b 1

:only_looks
echo Cause: this option needs a Python (3.11, 3.12 or 3.13), and none is here; only an installation fetches one.
echo Fix:   start install.bat without it. To uninstall by hand, delete the folders .venv and .install in this folder.
exit /b 1

:network
echo Cause: the app lies in a folder of the network, %~dp0, in which Windows runs no command window.
echo Fix:   move it to a disk of this computer, e.g. to C:\ControlNetStudio, and start install.bat there.
if "%~1"=="" pause
exit /b 1

:packed
echo Cause: the rest of the app is not beside install.bat: it is still packed in the archive.
echo Fix:   unpack the whole archive (right-click, Extract All), then start install.bat in the new folder.
if "%~1"=="" pause
exit /b 1

:probe
if defined STUDIO_PYTHON exit /b 0
for /f "usebackq delims=" %%Q in (`call %* "engine\install\probe.py" 2^>nul`) do set "STUDIO_PYTHON=%%Q"
exit /b 0

:remove
rem A Python cannot delete the folder that it runs from: what it leaves marked is deleted here.
rem A mark that a killed one has left is not this one's.
if exist ".install\remove" del ".install\remove"
"%STUDIO_PYTHON%" -m engine.install %*
if errorlevel 1 exit /b 1
if not exist ".install\remove" exit /b 0
rem A virus scanner, or the program that has just ended, may hold a file for a moment.
for /l %%I in (1,1,15) do if exist ".install\python" call :wipe
del ".install\remove"
if exist ".install\python" goto left
rmdir ".install" 2>nul
exit /b 0

:wipe
rmdir /s /q ".install\python" 2>nul
if exist ".install\python" ping -n 2 127.0.0.1 >nul
exit /b 0

:left
echo Cause: another program holds files in the folder .install\python open, so that it could not be deleted.
echo Fix:   close it, or restart the computer, then delete that folder.
exit /b 1

:run_own
rem The path as it is known here, which no console has to print.
set "STUDIO_PYTHON=%STUDIO_OWN%"

:run
if defined STUDIO_REMOVES goto remove
rem One line, which cmd has read before it runs: --update may replace this file by one with other lines.
"%STUDIO_PYTHON%" -m engine.install %* || (if defined STUDIO_CLICKED pause) & goto :eof

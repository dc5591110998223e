@echo off
rem Installs ControlNet Studio into this folder if needed, then starts it. Options: install.bat --help
setlocal EnableExtensions DisableDelayedExpansion
set "STUDIO_CALLED_FROM=%CD%"
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
set "STUDIO_UV="

for %%V in (3.12 3.11 3.13) do call :probe py -%%V
for %%P in (python python3) do call :probe %%P
if defined STUDIO_PYTHON goto run

for %%U in (uv.exe uv.cmd uv.bat) do if not "%%~$PATH:U"=="" set "STUDIO_UV=%%~$PATH:U"
if not defined STUDIO_UV goto missing
echo No suitable Python here: fetching Python 3.12 with uv ...
call "%STUDIO_UV%" python install 3.12
for /f "usebackq delims=" %%P in (`call "%STUDIO_UV%" python find --no-project 3.12 2^>nul`) do call :probe "%%P"
if defined STUDIO_PYTHON goto run

:missing
echo Cause: no suitable Python (3.11, 3.12 or 3.13, 64-bit, not from the Microsoft Store) was found.
echo Fix:   in a command window:  winget install Python.Python.3.12
echo        or get the "Windows installer (64-bit)" of Python 3.12 from https://www.python.org/downloads/
echo        then start this again.
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

:run
rem One line, which cmd has read before it runs: --update may replace this file by one with other lines.
"%STUDIO_PYTHON%" -m engine.install %* || (if "%~1"=="" pause) & goto :eof
